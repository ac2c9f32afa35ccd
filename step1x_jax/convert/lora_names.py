"""The linear layers that a LoRA may adapt, and what they are called in the files that occur.

A `Rows` says which rows of which published weight a layer is: of diffusers' layers,
diffusers_names.py knows it.
"""

import dataclasses

import numpy as np

from step1x_jax.convert.diffusers_names import transformer_layout
from step1x_jax.convert.keys import Table

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
