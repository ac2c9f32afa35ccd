"""What a file or folder of weights is, in lines for a user."""

import math
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
from etils import epath

from step1x_jax.convert.kinds import KINDS, kind_of, open_file, open_weights, stored_as
from step1x_jax.convert.tensors import Tensors
from step1x_jax.models.config import AutoencoderConfig, ModelConfig


def describe_weights(path: epath.PathLike) -> list[str]:
    """Lines about a file or folder of one model, or of adapters; no tensor but alphas is read.

    Raises:
      UserError: it is damaged, of no known kind, or does not fit its sizes.
    """
    file = open_file(path)
    kind = KINDS[kind_of(file, path)]
    lines = [str(path), f"  kind     {kind.title}"]
    if kind.holds == "adapters":
        lines += _adapters(file)
    elif stored_as(file) != "scaled fp8":
        weights = open_weights(path)
        lines.append(f"  sizes    {sizes_in_words(weights.config)}")
        lines += [f"  {name}: {value}" for name, value in weights.fields.items()]
    lines.append(f"  stored   {stored_as(file)}")
    lines += numbers_in_words(file)
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


def numbers_in_words(tensors: Tensors) -> list[str]:
    """Tensors, parameters, bytes and dtypes."""
    count = {name: math.prod(shape) for name, shape in tensors.shapes.items()}
    total = sum(n * tensors.dtypes[name].itemsize for name, n in count.items())
    dtypes = Counter(str(dtype) for dtype in tensors.dtypes.values())
    return [
        f"  tensors  {len(count)} ({', '.join(f'{n} {d}' for d, n in dtypes.most_common())})",
        f"  numbers  {sum(count.values()):,}",
        f"  bytes    {total:,}",
    ]


def _adapters(tensors: Tensors) -> list[str]:
    """Modules, ranks and alphas of a LoRA file."""
    down = re.compile(r"(.+)\.(?:lora_down|lora_A(?:\.[^.]+)?)\.weight$")
    found = {m[1]: shape[0] for n, shape in tensors.shapes.items() if (m := down.match(n))}
    alphas = {
        float(tensors.read(name).astype(np.float32))
        for name, shape in tensors.shapes.items()
        if name.endswith(".alpha") and shape in ((), (1,))
    }
    return [
        f"  modules  {len(found)}",
        f"  rank     {_few(Counter(found.values()))}",
        f"  alpha    {', '.join(f'{a:g}' for a in sorted(alphas)) or 'none (equal to the rank)'}",
    ]


def _few(ranks: Mapping[int, int]) -> str:
    return ", ".join(
        str(rank) if len(ranks) == 1 else f"{rank} ({n} modules)" for rank, n in ranks.items()
    )
