"""The linear layers that a LoRA may adapt, and their names in LoRA files.

`LayerRows` says which rows of which official weight a layer is. For diffusers' layers they follow
from layouts/diffusers.py.
"""

import dataclasses

import numpy as np

from step1x_jax.weights.layouts.diffusers import modules_of, transformer_layout
from step1x_jax.weights.layouts.official import Table

WEIGHT = ".weight"


@dataclasses.dataclass(frozen=True)
class LayerRows:
    """A layer under some name: rows of an official layer's weight.

    Attributes:
      module: name of the official layer.
      name: of the layer itself.
      segments: ranges (first row, last row + 1) of the official weight, in the order of the layer's
        rows.
    """

    module: str
    name: str
    segments: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """The first of its rows in the official weight."""
        return min(first for first, _ in self.segments)

    @property
    def size(self) -> int:
        """The number of its rows; in the official weight they are contiguous."""
        return sum(last - first for first, last in self.segments)

    def take(self, published: np.ndarray) -> np.ndarray:
        """Return its rows of the official weight, in its own order."""
        return np.concatenate([published[first:last] for first, last in self.segments])

    def restore_order(self, own: np.ndarray) -> np.ndarray:
        """Return its own rows in the order of the official weight."""
        order = np.concatenate([np.arange(*segment) for segment in self.segments])
        return own[np.argsort(order)]


def linear_shapes(table: Table) -> dict[str, tuple[int, int]]:
    """Return the official linear layers and the shapes of their weights, (out, in)."""
    return {
        name.removesuffix(WEIGHT): (entry.shape[0], entry.shape[1])
        for name, entry in table.items()
        if name.endswith(WEIGHT) and len(entry.shape) == 2
    }


def diffusers_layers(module: str, shape: tuple[int, int]) -> list[LayerRows]:
    """Return the layers of diffusers' model that make up an official layer.

    Args:
      module: official name.
      shape: of its weight, (out, in).
    """
    weight = module + WEIGHT
    segments: dict[str, list[tuple[int, int]]] = {}  # in the order of the layer's own rows
    ranges = transformer_layout(
        {weight: shape}, shape[1]
    ).ranges  # q, k, v are as wide as the input
    for part in sorted(ranges, key=lambda part: part.target_start):
        rows = part.source_start, part.source_start + part.size
        segments.setdefault(part.target.removesuffix(WEIGHT), []).append(rows)
    return [LayerRows(module, name, tuple(rows)) for name, rows in segments.items()]


# Inside a block: official module -> its name in DiffSynth's model; rows are the same.
_DIFFSYNTH = {
    "img_mod.lin": "norm1_a.linear",
    "txt_mod.lin": "norm1_b.linear",
    "img_attn.qkv": "attn.a_to_qkv",
    "txt_attn.qkv": "attn.b_to_qkv",
    "img_attn.proj": "attn.a_to_out",
    "txt_attn.proj": "attn.b_to_out",
    "img_mlp.0": "ff_a.0",
    "img_mlp.2": "ff_a.2",
    "txt_mlp.0": "ff_b.0",
    "txt_mlp.2": "ff_b.2",
    "modulation.lin": "norm.linear",
    "linear1": "to_qkv_mlp",
    "linear2": "proj_out",
}
_DIFFSYNTH_OUTSIDE = {
    "time_in.in_layer": "time_embedder.timestep_embedder.0",
    "time_in.out_layer": "time_embedder.timestep_embedder.2",
    "vector_in.in_layer": "pooled_text_embedder.0",
    "vector_in.out_layer": "pooled_text_embedder.2",
    "final_layer.linear": "final_proj_out",
    "final_layer.adaLN_modulation.1": "final_norm_out.linear",  # scale before shift, too
}


def _other_names(module: str) -> list[str]:
    """Return further names of an official layer that has the rows of diffusers' layer."""
    names = [_DIFFSYNTH_OUTSIDE[module]] if module in _DIFFSYNTH_OUTSIDE else []
    if module.startswith(("time_in.", "vector_in.")):
        names += modules_of(module, flux=True)
    return names


def _diffsynth_name(module: str) -> str | None:
    blocks, number, name = (*module.split(".", 2), "", "")[:3]
    if blocks not in ("double_blocks", "single_blocks") or name not in _DIFFSYNTH:
        return None
    return f"{blocks.removeprefix('double_')}.{number}.{_DIFFSYNTH[name]}"


def layer_names(table: Table) -> dict[str, LayerRows]:
    """Return the layers of this model by every name that a LoRA file may use.

    These are the official names, diffusers' (also FLUX.1's) and DiffSynth's, each with dots and, as
    kohya writes them after `lora_unet_`, with underscores.
    """
    found: dict[str, LayerRows] = {}
    for module, shape in linear_shapes(table).items():
        official = LayerRows(module, module, ((0, shape[0]),))
        theirs = diffusers_layers(module, shape)
        rows = [official, *theirs]
        rows += [dataclasses.replace(theirs[0], name=name) for name in _other_names(module)]
        if name := _diffsynth_name(module):
            rows.append(dataclasses.replace(official, name=name))
        for one in rows:
            for name in (one.name, one.name.replace(".", "_")):
                found.setdefault(name, one)  # equal names (connector) are the same layer
    return found


def kohya_name(layer: str) -> str:
    """Return a layer's name in kohya's format."""
    return "lora_unet_" + layer.replace(".", "_")
