"""Describes weights for users, in lines of text."""

import math
from collections import Counter
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.weights.component_paths import locate_components
from step1x_jax.weights.files.fp8 import number_format
from step1x_jax.weights.files.opening import WeightFile, open_file
from step1x_jax.weights.formats import RUN, detect_format
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.lora.file import LoraFile
from step1x_jax.weights.lora.keys import DOWN, parse_key
from step1x_jax.weights.open import open_weights, read_model_sizes
from step1x_jax.weights.readers import Shape
from step1x_jax.weights.run.description import WEIGHTS
from step1x_jax.weights.run.folder import is_run
from step1x_jax.weights.run.reader import RunFolder


def describe_weights(path: epath.PathLike, sizes: ModelConfig | None = None) -> list[str]:
    """Describe what is at a path, component by component; of the numbers only alphas are read.

    Args:
      path: any format that `open_weights` accepts, or adapters.
      sizes: of the model that adapters are for; None: those of the config.json beside them, or the
        release's. Adapters for other models are described by their names alone.

    Returns:
      Lines of text.

    Raises:
      UserError: it is damaged, has an unknown format, or does not fit its sizes.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file or folder of weights.")
    if is_run(path):
        return _describe_run(path)
    paths = locate_components(path)
    lines = _describe_file(paths.model, sizes)
    if path.is_dir() and paths.autoencoder is not None and paths.autoencoder.exists():
        lines += (
            _describe_file(paths.autoencoder, sizes) if paths.model != paths.autoencoder else []
        )
    return lines


def _describe_run(path: epath.Path) -> list[str]:
    run = RunFolder(path)
    what = f"{RUN.title}, step {run.step}"
    if run.description.trained == WEIGHTS:
        what = (
            f"{'adapters' if run.lora.rank else 'weights'} alone, in the format of a run's folder"
        )
    lines = [str(path), f"  format   {what}"]
    lines.append(f"  sizes    {format_sizes(run.model)}")
    if run.lora.rank:
        lines.append(f"  adapters rank {run.lora.rank}, alpha {run.lora.alpha:g}")
        lines.append(f"  base     {run.description.start_from or 'not known'}")
    average = "has one (--ema)" if "ema" in run.description.arrays else "none"
    lines.append(f"  average  {average}")
    if run.description.package:
        lines.append(f"  written  by step1x_jax {run.description.package}")
    shapes = {name: tuple(about["shape"]) for name, about in run.arrays.items()}
    dtypes = {name: np.dtype(jnp.dtype(about["dtype"])) for name, about in run.arrays.items()}
    return lines + format_tensor_counts(shapes, dtypes)


def _describe_file(path: epath.Path, sizes: ModelConfig | None) -> list[str]:
    file = open_file(path)
    found = detect_format(file, path)
    lines = [str(path), f"  format   {found.title}"]
    if found.component == "adapters":
        lines += _describe_adapters(file, sizes or read_model_sizes(path))
    else:
        weights = open_weights(path)
        lines.append(f"  sizes    {format_sizes(weights.config)}")
        lines += [f"  {name}: {value}" for name, value in weights.settings.items()]
    lines.append(f"  stored   {number_format(file)}")
    lines += format_tensor_counts(file.shapes, file.dtypes)
    lines += [f"  {name}: {value}" for name, value in file.metadata.items()]
    return lines


def format_sizes(config: ModelConfig | AutoencoderConfig) -> str:
    """Return one line of sizes; a model's begins with the version."""
    if isinstance(config, AutoencoderConfig):
        widths = ", ".join(str(config.ch * m) for m in config.ch_mult)
        return f"widths {widths}; {config.z_channels} latent channels"
    return (
        f"{config.version}: {config.depth} double and {config.depth_single_blocks} single blocks,"
        f" width {config.hidden_size}, {config.num_heads} heads; connector of"
        f" {config.connector_depth} blocks, width {config.connector_hidden_size}"
    )


def format_tensor_counts(shapes: Mapping[str, Shape], dtypes: Mapping[str, np.dtype]) -> list[str]:
    """Return lines with the numbers of tensors, parameters and bytes, and the dtypes."""
    count = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(n * dtypes[name].itemsize for name, n in count.items())
    by_dtype = Counter(str(dtype) for dtype in dtypes.values())
    return [
        f"  tensors  {len(count)} ({', '.join(f'{n} {d}' for d, n in by_dtype.most_common())})",
        f"  numbers  {sum(count.values()):,}",
        f"  bytes    {total:,}",
    ]


def _describe_adapters(file: WeightFile, sizes: ModelConfig) -> list[str]:
    """Return lines about modules, ranks and alphas of a LoRA."""
    try:
        settings = LoraFile(file.path, model_table(sizes)).settings
        alphas = Counter(f"{alpha:g}" for _, alpha in settings.values())
        return [
            f"  for      a model of {format_sizes(sizes)}",
            f"  modules  {len(settings)}",
            f"  rank     {_format_counts(Counter(str(rank) for rank, _ in settings.values()))}",
            f"  alpha    {_format_counts(alphas)}",
        ]
    except UserError as e:
        return [
            *_describe_adapters_by_name(file),
            f"  not for a model of {format_sizes(sizes)}: {e}",
        ]


def _describe_adapters_by_name(file: WeightFile) -> list[str]:
    """Return the same for a LoRA that may be for any model."""
    halves = {name: parse_key(name) for name in file.shapes}
    ranks = {key[0]: file.shapes[n][0] for n, key in halves.items() if key and key[1] == DOWN}
    alphas = Counter(
        f"{float(file.read(name).astype(np.float32)):g}"
        for name, shape in file.shapes.items()
        if name.endswith(".alpha") and shape in ((), (1,))
    )
    return [
        f"  modules  {len(ranks)}",
        f"  rank     {_format_counts(Counter(str(rank) for rank in ranks.values()))}",
        f"  alpha    {_format_counts(alphas) or 'not in the tensors'}",
    ]


def _format_counts(values: Mapping[str, int]) -> str:
    return ", ".join(
        value if len(values) == 1 else f"{value} ({n} modules)" for value, n in values.items()
    )
