"""The one place that knows diffusers' layout: which rows of an official tensor it has where.

Checked against the class Step1XEditTransformer2DModel of diffusers' pull request 12249, against
FluxTransformer2DModel, which its blocks are those of, and against AutoencoderKL. Fused projections
are apart there (q, k, v, and the MLP of the single blocks); the last layer's modulation has scale
before shift; the autoencoder's attention has linear layers for 1x1 convolutions, and its `up` runs
the other way.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from step1x_jax.weights.readers import Layout, Move, Shape

# Modules outside the blocks: official name -> diffusers' name.
_STEP1X = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_embed.in_layer",
    "time_in.out_layer": "time_embed.out_layer",
    "vector_in.in_layer": "vec_embed.in_layer",
    "vector_in.out_layer": "vec_embed.out_layer",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",  # its halves swapped, see _swapped
}
_FLUX = _STEP1X | {
    f"{ours}_in.{layer}": f"time_text_embed.{theirs}_embedder.{linear}"
    for ours, theirs in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance"))
    for layer, linear in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
}
_SWAPPED = "final_layer.adaLN_modulation.1"

# Inside a block: official module -> diffusers' modules, one after another along the rows.
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
    """diffusers' modules of an official module of connector or DiT, in the order of its rows.

    Args:
      module: such as double_blocks.0.img_attn.qkv.
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


def transformer_layout(official: Mapping[str, Shape], width: int, flux: bool = False) -> Layout:
    """Connector and DiT.

    Args:
      official: shapes of its tensors.
      width: of the DiT, at which fused projections are cut.
      flux: see `modules_of`.
    """
    there: dict[str, Shape] = {}
    moves: list[Move] = []
    for name, shape in official.items():
        if name == "connector.scale_factor":
            continue  # has no place there, see diffusers_folder.py
        module, _, kind = name.rpartition(".")
        theirs = [f"{m}.{'weight' if kind == 'scale' else kind}" for m in modules_of(module, flux)]
        swap = module == _SWAPPED
        new = _swapped(name, theirs[0], shape) if swap else _cut(name, theirs, shape[0], width)
        for move in new:
            rows = there.get(move.there, (0,))[0] + move.rows
            there[move.there] = (rows, *shape[1:])
        moves += new
    return Layout(official, there, moves)


def _cut(name: str, theirs: Sequence[str], rows: int, width: int) -> list[Move]:
    """One after another; all but the last are as wide as the model."""
    starts = [i * width for i in range(len(theirs))]
    stops = [*starts[1:], rows]
    return [
        Move(name, start, there, 0, stop - start)
        for there, start, stop in zip(theirs, starts, stops, strict=True)
    ]


def _swapped(name: str, theirs: str, shape: Shape) -> list[Move]:
    """(shift, scale) there is (scale, shift)."""
    half = shape[0] // 2
    return [Move(name, 0, theirs, half, half), Move(name, half, theirs, 0, half)]


# What a match becomes: a replacement, or a function that gives it.
_Rule = tuple[str, str | Callable[[re.Match[str]], str]]
_AUTOENCODER: list[_Rule] = [  # official module -> AutoencoderKL's, in this order
    (r"^(encoder|decoder)\.norm_out", r"\1.conv_norm_out"),
    (r"mid\.block_(\d+)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.proj_out", "mid_block.attentions.0.to_out.0"),
    (r"mid\.attn_1\.(q|k|v)", r"mid_block.attentions.0.to_\1"),
    (r"down\.(\d+)\.downsample", r"down_blocks.\1.downsamplers.0"),
    (r"down\.(\d+)\.block", r"down_blocks.\1.resnets"),
    (r"nin_shortcut", "conv_shortcut"),
]


def autoencoder_layout(official: Mapping[str, Shape], levels: int) -> Layout:
    """The autoencoder.

    Args:
      official: shapes of its tensors.
      levels: resolutions; there the decoder's are counted from the other end.
    """
    up: list[_Rule] = [
        (r"up\.(\d+)\.upsample", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.upsamplers.0"),
        (r"up\.(\d+)\.block", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.resnets"),
    ]
    there: dict[str, Shape] = {}
    moves = []
    for name, shape in official.items():
        theirs = name
        for pattern, replacement in _AUTOENCODER + up:
            theirs = re.sub(pattern, replacement, theirs)
        is_linear = "attentions.0.to_" in theirs and len(shape) == 4
        there[theirs] = shape[:2] if is_linear else shape
        moves.append(Move(name, 0, theirs, 0, shape[0]))
    return Layout(official, there, moves)
