"""What a file or folder of weights is, in lines for a user."""

import math
from collections import Counter
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.weights.files.fp8 import stored_as
from step1x_jax.weights.files.opening import WeightFile, open_file
from step1x_jax.weights.kinds import RUN, kind_of
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.lora.file import LoraFile
from step1x_jax.weights.lora.keys import DOWN, key_parts
from step1x_jax.weights.open import open_weights, sizes_for
from step1x_jax.weights.places import places_of
from step1x_jax.weights.readers import Shape
from step1x_jax.weights.run.description import WEIGHTS
from step1x_jax.weights.run.folder import is_run
from step1x_jax.weights.run.reader import RunFolder


def describe_weights(path: epath.PathLike, sizes: ModelConfig | None = None) -> list[str]:
    """Lines about what is at a path, part by part; no tensor but alphas is read.

    Args:
      path: of any form that `open_weights` understands, or of adapters.
      sizes: of the model that adapters are for; None takes those of config.json beside them, or the
        release's. Adapters of other models are described by their names alone.

    Raises:
      UserError: it is damaged, of no known kind, or does not fit its sizes.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file or folder of weights.")
    if is_run(path):
        return _run(path)
    places = places_of(path)
    lines = _file(places.model, sizes)
    if path.is_dir() and places.autoencoder is not None and places.autoencoder.exists():
        lines += _file(places.autoencoder, sizes) if places.model != places.autoencoder else []
    return lines


def _run(path: epath.Path) -> list[str]:
    run = RunFolder(path)
    what = f"{RUN.title}, step {run.step}"
    if run.description.trained == WEIGHTS:
        what = "weights alone, in the form of a run's folder"
    lines = [str(path), f"  kind     {what}"]
    lines.append(f"  sizes    {sizes_in_words(run.model)}")
    if run.lora.rank:
        lines.append(f"  adapters rank {run.lora.rank}, alpha {run.lora.alpha:g}")
        lines.append(f"  base     {run.description.start_from or 'not known'}")
    average = "has one (--ema)" if "ema" in run.description.arrays else "none"
    lines.append(f"  average  {average}")
    if run.description.package:
        lines.append(f"  written  by step1x_jax {run.description.package}")
    shapes = {name: tuple(about["shape"]) for name, about in run.arrays.items()}
    dtypes = {name: np.dtype(jnp.dtype(about["dtype"])) for name, about in run.arrays.items()}
    return lines + numbers_in_words(shapes, dtypes)


def _file(path: epath.Path, sizes: ModelConfig | None) -> list[str]:
    file = open_file(path)
    kind = kind_of(file, path)
    lines = [str(path), f"  kind     {kind.title}"]
    if kind.holds == "adapters":
        lines += _adapters(file, sizes or sizes_for(path))
    else:
        weights = open_weights(path)
        lines.append(f"  sizes    {sizes_in_words(weights.config)}")
        lines += [f"  {name}: {value}" for name, value in weights.settings.items()]
    lines.append(f"  stored   {stored_as(file)}")
    lines += numbers_in_words(file.shapes, file.dtypes)
    lines += [f"  {name}: {value}" for name, value in file.metadata.items()]
    return lines


def sizes_in_words(config: ModelConfig | AutoencoderConfig) -> str:
    """One line of sizes, the version first."""
    if isinstance(config, AutoencoderConfig):
        widths = ", ".join(str(config.ch * m) for m in config.ch_mult)
        return f"widths {widths}; {config.z_channels} latent channels"
    return (
        f"{config.version}: {config.depth} double and {config.depth_single_blocks} single blocks,"
        f" width {config.hidden_size}, {config.num_heads} heads; connector of"
        f" {config.connector_depth} blocks, width {config.connector_hidden_size}"
    )


def numbers_in_words(shapes: Mapping[str, Shape], dtypes: Mapping[str, np.dtype]) -> list[str]:
    """Tensors, parameters, bytes and dtypes."""
    count = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(n * dtypes[name].itemsize for name, n in count.items())
    kinds = Counter(str(dtype) for dtype in dtypes.values())
    return [
        f"  tensors  {len(count)} ({', '.join(f'{n} {d}' for d, n in kinds.most_common())})",
        f"  numbers  {sum(count.values()):,}",
        f"  bytes    {total:,}",
    ]


def _adapters(file: WeightFile, sizes: ModelConfig) -> list[str]:
    """Modules, ranks and alphas of a LoRA."""
    try:
        settings = LoraFile(file.path, model_table(sizes)).settings
        alphas = Counter(f"{alpha:g}" for _, alpha in settings.values())
        return [
            f"  for      a model of {sizes_in_words(sizes)}",
            f"  modules  {len(settings)}",
            f"  rank     {_few(Counter(str(rank) for rank, _ in settings.values()))}",
            f"  alpha    {_few(alphas)}",
        ]
    except UserError as e:
        return [*_adapters_by_name(file), f"  not for a model of {sizes_in_words(sizes)}: {e}"]


def _adapters_by_name(file: WeightFile) -> list[str]:
    """The same of a LoRA that may be of any model."""
    halves = {name: key_parts(name) for name in file.shapes}
    found = {part[0]: file.shapes[n][0] for n, part in halves.items() if part and part[1] == DOWN}
    alphas = Counter(
        f"{float(file.read(name).astype(np.float32)):g}"
        for name, shape in file.shapes.items()
        if name.endswith(".alpha") and shape in ((), (1,))
    )
    return [
        f"  modules  {len(found)}",
        f"  rank     {_few(Counter(str(rank) for rank in found.values()))}",
        f"  alpha    {_few(alphas) or 'not in the tensors'}",
    ]


def _few(values: Mapping[str, int]) -> str:
    return ", ".join(
        value if len(values) == 1 else f"{value} ({n} modules)" for value, n in values.items()
    )
