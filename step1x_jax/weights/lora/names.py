"""The linear layers that a LoRA may adapt, and what they are called in the files that occur.

A `Rows` says which rows of which published weight a layer is: of diffusers' layers,
diffusers_names.py knows it.
"""

import dataclasses

import numpy as np

from step1x_jax.weights.layouts.diffusers import modules_of, transformer_layout
from step1x_jax.weights.layouts.official import Table

WEIGHT = ".weight"


@dataclasses.dataclass(frozen=True)
class Rows:
    """A layer by some name: rows of a published layer's weight, in the order that it has them."""

    module: str  # published
    name: str
    segments: tuple[tuple[int, int], ...]  # first row and the one behind the last

    @property
    def start(self) -> int:
        """The first of its rows in the published weight."""
        return min(first for first, _ in self.segments)

    @property
    def size(self) -> int:
        """How many there are; they are one run in the published weight."""
        return sum(last - first for first, last in self.segments)

    def taken(self, published: np.ndarray) -> np.ndarray:
        """Its rows of the published weight's."""
        return np.concatenate([published[first:last] for first, last in self.segments])

    def put_back(self, own: np.ndarray) -> np.ndarray:
        """Its own rows in the order that they have in the published weight."""
        order = np.concatenate([np.arange(*segment) for segment in self.segments])
        return own[np.argsort(order)]


def adaptable(table: Table) -> dict[str, tuple[int, int]]:
    """The published linear layers and the shapes of their weights, (out, in)."""
    return {
        name.removesuffix(WEIGHT): (entry.shape[0], entry.shape[1])
        for name, entry in table.items()
        if name.endswith(WEIGHT) and len(entry.shape) == 2
    }


def diffusers_layers(module: str, shape: tuple[int, int]) -> list[Rows]:
    """What diffusers' model has in a published layer's place.

    Args:
      module: the published name.
      shape: of its weight.
    """
    weight = module + WEIGHT
    segments: dict[str, list[tuple[int, int]]] = {}  # a layer's rows, in the order that it has them
    moves = transformer_layout({weight: shape}, shape[1]).moves  # q, k, v are as wide as the input
    for move in sorted(moves, key=lambda move: move.there_at):
        rows = move.here_at, move.here_at + move.rows
        segments.setdefault(move.there.removesuffix(WEIGHT), []).append(rows)
    return [Rows(module, name, tuple(rows)) for name, rows in segments.items()]


# Inside a block: published module -> the name in DiffSynth's model, which has the same rows.
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
    "final_layer.adaLN_modulation.1": "final_norm_out.linear",  # scale before shift, as diffusers
}


def _other_names(module: str) -> list[str]:
    """Names of a published layer outside of diffusers' Step1X-Edit, of the same rows as there."""
    names = [_DIFFSYNTH_OUTSIDE[module]] if module in _DIFFSYNTH_OUTSIDE else []
    if module.startswith(("time_in.", "vector_in.")):
        names += modules_of(module, flux=True)
    return names


def _diffsynth_name(module: str) -> str | None:
    blocks, number, name = (*module.split(".", 2), "", "")[:3]
    if blocks not in ("double_blocks", "single_blocks") or name not in _DIFFSYNTH:
        return None
    return f"{blocks.removeprefix('double_')}.{number}.{_DIFFSYNTH[name]}"


def spellings(table: Table) -> dict[str, Rows]:
    """Every name under which a LoRA file may have a layer of this model.

    These are the published names, diffusers' (of FLUX.1, too) and DiffSynth's, as they are and
    joined by underscores, as kohya does behind `lora_unet_`.
    """
    found: dict[str, Rows] = {}
    for module, shape in adaptable(table).items():
        whole = Rows(module, module, ((0, shape[0]),))
        theirs = diffusers_layers(module, shape)
        rows = [whole, *theirs]
        rows += [dataclasses.replace(theirs[0], name=name) for name in _other_names(module)]
        if name := _diffsynth_name(module):
            rows.append(dataclasses.replace(whole, name=name))
        for one in rows:
            for name in (one.name, one.name.replace(".", "_")):
                found.setdefault(name, one)  # equal names (connector) are equal layers
    return found


def kohya_name(layer: str) -> str:
    """A layer's name as kohya writes it."""
    return "lora_unet_" + layer.replace(".", "_")
