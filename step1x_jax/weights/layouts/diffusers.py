"""Diffusers' layout: which rows of an official tensor are in which of its tensors.

Only this file knows that layout. It was checked against the class Step1XEditTransformer2DModel of
diffusers' pull request 12249, against FluxTransformer2DModel, whose blocks it shares, and against
AutoencoderKL. Differences from the official layout: fused projections are split (q, k, v, and the
MLP of the single blocks); the last layer's modulation has scale before shift; the autoencoder's
attention has linear layers instead of 1x1 convolutions, and its `up` levels are numbered in
reverse.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from step1x_jax.weights.readers import LayoutMap, RowRange, Shape

# Modules outside the blocks: official name -> diffusers' name.
_STEP1X = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_embed.in_layer",
    "time_in.out_layer": "time_embed.out_layer",
    "vector_in.in_layer": "vec_embed.in_layer",
    "vector_in.out_layer": "vec_embed.out_layer",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",  # halves swapped, see _swap_halves
}
_FLUX = _STEP1X | {
    f"{ours}_in.{layer}": f"time_text_embed.{theirs}_embedder.{linear}"
    for ours, theirs in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance"))
    for layer, linear in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
}
_SHIFT_SCALE = "final_layer.adaLN_modulation.1"

# Inside a block: official module -> diffusers' modules, concatenated along the rows.
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_BLOCKS = {
    "double_blocks": ("transformer_blocks", _DOUBLE),
    "single_blocks": ("single_transformer_blocks", _SINGLE),
}


def modules_of(module: str, flux: bool = False) -> tuple[str, ...]:
    """Return diffusers' modules for an official one of connector or DiT, in the order of its rows.

    Args:
      module: official name, e.g. double_blocks.0.img_attn.qkv.
      flux: names of FluxTransformer2DModel instead of Step1XEditTransformer2DModel.
    """
    if module.startswith("connector."):
        return (module,)
    kind, _, rest = module.partition(".")
    if kind in _BLOCKS:
        number, _, name = rest.partition(".")
        blocks, names = _BLOCKS[kind]
        return tuple(f"{blocks}.{number}.{theirs}" for theirs in names[name])
    return ((_FLUX if flux else _STEP1X)[module],)


def transformer_layout(official: Mapping[str, Shape], width: int, flux: bool = False) -> LayoutMap:
    """Return the map from official tensors of connector and DiT to diffusers'.

    Args:
      official: shapes of the official tensors.
      width: of the DiT, at which fused projections are split.
      flux: see `modules_of`.
    """
    target: dict[str, Shape] = {}
    ranges: list[RowRange] = []
    for name, shape in official.items():
        if name == "connector.scale_factor":
            continue  # diffusers has no such tensor, see diffusers_folder.py
        module, _, kind = name.rpartition(".")
        theirs = [f"{m}.{'weight' if kind == 'scale' else kind}" for m in modules_of(module, flux)]
        if module == _SHIFT_SCALE:
            new = _swap_halves(name, theirs[0], shape)
        else:
            new = _split_rows(name, theirs, shape[0], width)
        for part in new:
            rows = target.get(part.target, (0,))[0] + part.size
            target[part.target] = (rows, *shape[1:])
        ranges += new
    return LayoutMap(official, target, ranges)


def _split_rows(name: str, theirs: Sequence[str], rows: int, width: int) -> list[RowRange]:
    """Split consecutive rows; all tensors but the last have as many rows as the model's width."""
    starts = [i * width for i in range(len(theirs))]
    stops = [*starts[1:], rows]
    return [
        RowRange(name, start, target, 0, stop - start)
        for target, start, stop in zip(theirs, starts, stops, strict=True)
    ]


def _swap_halves(name: str, theirs: str, shape: Shape) -> list[RowRange]:
    """Map (shift, scale) to (scale, shift)."""
    half = shape[0] // 2
    return [RowRange(name, 0, theirs, half, half), RowRange(name, half, theirs, 0, half)]


# A pattern, and its replacement or a function that returns it.
_Rule = tuple[str, str | Callable[[re.Match[str]], str]]
_AUTOENCODER: list[_Rule] = [  # official module -> AutoencoderKL's; applied in this order
    (r"^(encoder|decoder)\.norm_out", r"\1.conv_norm_out"),
    (r"mid\.block_(\d+)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.proj_out", "mid_block.attentions.0.to_out.0"),
    (r"mid\.attn_1\.(q|k|v)", r"mid_block.attentions.0.to_\1"),
    (r"down\.(\d+)\.downsample", r"down_blocks.\1.downsamplers.0"),
    (r"down\.(\d+)\.block", r"down_blocks.\1.resnets"),
    (r"nin_shortcut", "conv_shortcut"),
]


def autoencoder_layout(official: Mapping[str, Shape], levels: int) -> LayoutMap:
    """Return the map from official tensors of the autoencoder to diffusers'.

    Args:
      official: shapes of the official tensors.
      levels: number of resolutions; diffusers numbers the decoder's in reverse.
    """
    up: list[_Rule] = [
        (r"up\.(\d+)\.upsample", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.upsamplers.0"),
        (r"up\.(\d+)\.block", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.resnets"),
    ]
    target: dict[str, Shape] = {}
    ranges = []
    for name, shape in official.items():
        theirs = name
        for pattern, replacement in _AUTOENCODER + up:
            theirs = re.sub(pattern, replacement, theirs)
        is_linear = "attentions.0.to_" in theirs and len(shape) == 4
        target[theirs] = shape[:2] if is_linear else shape
        ranges.append(RowRange(name, 0, theirs, 0, shape[0]))
    return LayoutMap(official, target, ranges)
