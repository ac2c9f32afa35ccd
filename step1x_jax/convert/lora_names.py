"""The linear layers that a LoRA may adapt, and what they are called in the files that occur.

diffusers' model has the published fused layers in parts (to_q, to_k, to_v for qkv; these and
proj_mlp for linear1), and its last norm gives scale before shift. A `Rows` says which rows of which
published weight such a layer is.
"""

import dataclasses
import re

import numpy as np

from step1x_jax.convert.keys import Table

WEIGHT = ".weight"

# published layer -> diffusers' (Step1XEditTransformer2DModel); {} is a block's number. The
# connector's names are the same in both.
ONE_TO_ONE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_embed.in_layer",
    "time_in.out_layer": "time_embed.out_layer",
    "vector_in.in_layer": "vec_embed.in_layer",
    "vector_in.out_layer": "vec_embed.out_layer",
    "double_blocks.{}.img_mod.lin": "transformer_blocks.{}.norm1.linear",
    "double_blocks.{}.txt_mod.lin": "transformer_blocks.{}.norm1_context.linear",
    "double_blocks.{}.img_attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "double_blocks.{}.txt_attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "double_blocks.{}.img_mlp.0": "transformer_blocks.{}.ff.net.0.proj",
    "double_blocks.{}.img_mlp.2": "transformer_blocks.{}.ff.net.2",
    "double_blocks.{}.txt_mlp.0": "transformer_blocks.{}.ff_context.net.0.proj",
    "double_blocks.{}.txt_mlp.2": "transformer_blocks.{}.ff_context.net.2",
    "single_blocks.{}.modulation.lin": "single_transformer_blocks.{}.norm.linear",
    "single_blocks.{}.linear2": "single_transformer_blocks.{}.proj_out",
    "final_layer.linear": "proj_out",
}
# Those in parts: each is as wide as the layer's input, but for the last of linear1, which is the
# rest.
IN_PARTS = {
    "double_blocks.{}.img_attn.qkv": [
        f"transformer_blocks.{{}}.attn.to_{x}" for x in ("q", "k", "v")
    ],
    "double_blocks.{}.txt_attn.qkv": [
        f"transformer_blocks.{{}}.attn.add_{x}_proj" for x in ("q", "k", "v")
    ],
    "single_blocks.{}.linear1": [
        *(f"single_transformer_blocks.{{}}.attn.to_{x}" for x in ("q", "k", "v")),
        "single_transformer_blocks.{}.proj_mlp",
    ],
}
# Published: shift, then scale; diffusers: scale, then shift.
HALVES_SWAPPED = {"final_layer.adaLN_modulation.1": "norm_out.linear"}


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
    out, c_in = shape
    numbers = re.findall(r"_blocks\.(\d+)\.", module)
    kind = re.sub(r"(_blocks)\.\d+\.", r"\1.{}.", module)
    if module in HALVES_SWAPPED:
        return [Rows(module, HALVES_SWAPPED[module], ((out // 2, out), (0, out // 2)))]
    if kind not in IN_PARTS:
        name = ONE_TO_ONE.get(kind, module)
        return [Rows(module, name.format(*numbers), ((0, out),))]
    names = [name.format(*numbers) for name in IN_PARTS[kind]]
    edges = [*range(0, 3 * c_in, c_in), 3 * c_in, out]
    return [
        Rows(module, name, ((first, last),))
        for name, first, last in zip(names, edges, edges[1:], strict=False)
    ]


def spellings(table: Table) -> dict[str, Rows]:
    """Every name under which a LoRA file may have a layer of this model.

    These are the published names and diffusers', as they are (PEFT) and in kohya's way, joined by
    underscores behind lora_unet_ or (trainers on diffusers' modules) lora_transformer_.
    """
    found: dict[str, Rows] = {}
    for module, shape in adaptable(table).items():
        for rows in (Rows(module, module, ((0, shape[0]),)), *diffusers_layers(module, shape)):
            for name in (rows.name, kohya_name(rows.name), kohya_name(rows.name, TRANSFORMER)):
                found.setdefault(name, rows)  # equal names (connector) are equal layers
    return found


UNET, TRANSFORMER = "lora_unet_", "lora_transformer_"


def kohya_name(layer: str, prefix: str = UNET) -> str:
    """A layer's name as kohya writes it."""
    return prefix + layer.replace(".", "_")
