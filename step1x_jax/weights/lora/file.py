"""Reads LoRA files of all formats that occur, strictly, as deltas of the official layers.

A LoRA adds alpha / rank * up @ down to the weight of a linear layer, down (rank, in), up (out,
rank). Whatever name a file uses for the layer (see names.py), and whether it is fused or split
there, it is read as one or several `LoraDelta`s: additions to rows of the official layer. Code that
writes LoRAs (writers.py) or trains them (adapters.py) sees only these.

| halves | alpha |
|---|---|
| .lora_down.weight, .lora_up.weight (kohya) | .alpha, or the header |
| .lora_A.weight, .lora_A.NAME.weight, .lora_B... (PEFT, diffusers) | .alpha, or PEFT's settings |

settings.py reads, in the file's header and beside the file, what the tensors do not contain. If no
alpha is given anywhere, alpha / rank is 1, as in all programs that read such files. An alpha of 0
switches a layer off.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.json_files import build, parse_json
from step1x_jax.weights.files.opening import LORA_NAMES, open_raw
from step1x_jax.weights.formats import other_adapter
from step1x_jax.weights.layouts.official import Table
from step1x_jax.weights.lora.keys import (
    ALPHA,
    DOWN,
    TEXT_ENCODERS,
    UP,
    layer_of,
    parse_key,
    strip_prefixes,
)
from step1x_jax.weights.lora.names import LayerRows, layer_names, linear_shapes
from step1x_jax.weights.lora.settings import Settings, load_settings

TEXT_ENCODER = "text_encoder"  # the component that may be ignored
OTHER_MODEL = (
    "it was made for another model, or for other sizes (give that model to launch.convert as"
    " --base)"
)
# An entry in the header of files that we write for diffusers: the alpha of each layer whose up was
# multiplied by alpha / rank exactly; see writers.py.
IN_TENSORS = "step1x_jax_alpha_in_tensors"


class LoraDelta(NamedTuple):
    """What a LoRA adds to rows of an official weight: alpha / rank * up @ down.

    Attributes:
      start: the first of these rows.
      down: (rank, in).
      up: (rows, rank).
      alpha: see above.
    """

    start: int
    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        """The rank of the product."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """The factor of the product, alpha / rank."""
        return self.alpha / self.rank


class Lora(Protocol):
    """A LoRA of this model, in any format."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """The adapted official layers and the shapes of their weights, (out, in)."""

    def deltas(self, module: str) -> list[LoraDelta]:
        """Return what is added to an official layer's weight; rows do not overlap."""


@dataclasses.dataclass
class _FileLayer:
    """A layer in a file: the keys of its halves, and its alpha."""

    rows: LayerRows
    keys: dict[str, str]
    alpha: float = math.nan
    up_scale: float = 1.0  # a power of two by which its up was multiplied


class LoraFile:
    """An open LoRA file or folder; every tensor has been matched with a layer of the model."""

    def __init__(self, path: epath.PathLike, table: Table, ignore: Sequence[str] = ()):
        """Read the header and the alphas, and match them with the model.

        Args:
          path: the .safetensors file, or the folder that PEFT or diffusers wrote.
          table: official names and shapes of the model.
          ignore: ("text_encoder",) skips that component's tensors; `ignored` lists their names.

        Raises:
          UserError: a tensor belongs to no layer, occurs twice, has a wrong shape or dtype, or its
            other half is missing; the settings beside the file are not those of a plain LoRA.
        """
        self.file = open_raw(path, LORA_NAMES)
        self.ignored: list[str] = []
        self._ignore = ignore
        self._model = linear_shapes(table)
        self._layers: dict[str, list[_FileLayer]] = {}  # by official layer
        self._adapter: str | None = None
        names = layer_names(table)
        for key in self.file.shapes:
            self._add(key, names)
        if not self._layers:
            what = "has only layers of a text encoder" if self.ignored else "is empty"
            raise UserError(f"{self.file.path} {what}; give the file of a LoRA.")
        in_tensors = self._in_tensors()
        for module, entries in self._layers.items():
            for entry in entries:
                self._check(entry, self._model[module])
                entry.alpha = self._alpha(entry)
                self._unscale_up(entry, in_tensors)
            entries.sort(key=lambda entry: entry.rows.start)
            for entry, other in itertools.pairwise(entries):
                if entry.rows.start + entry.rows.size > other.rows.start:
                    raise UserError(
                        f"{self.file.path}: {entry.keys[DOWN]} and {other.keys[DOWN]} both adapt"
                        f" {module}; give a LoRA that has it once."
                    )
        if not self.shapes:
            raise UserError(
                f"{self.file.path} has no effect: all its alphas are 0; give a LoRA that has one."
            )

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The adapted official layers and the shapes of their weights, (out, in)."""
        return {
            module: self._model[module]
            for module, entries in self._layers.items()
            if any(entry.alpha for entry in entries)
        }

    @property
    def switched_off(self) -> list[str]:
        """Names of the file's layers whose alpha is 0."""
        return [
            layer_of(entry.keys[DOWN])
            for entries in self._layers.values()
            for entry in entries
            if not entry.alpha
        ]

    @property
    def settings(self) -> dict[str, tuple[int, float]]:
        """Rank and alpha of each layer, by its name in the file."""
        return {
            layer_of(entry.keys[DOWN]): (self.file.shapes[entry.keys[DOWN]][0], entry.alpha)
            for entries in self._layers.values()
            for entry in entries
        }

    def deltas(self, module: str) -> list[LoraDelta]:
        """Read what is added to an official layer's weight, in the file's dtype."""
        return [
            LoraDelta(
                entry.rows.start,
                self.file.read(entry.keys[DOWN]),
                entry.rows.restore_order(self._read_up(entry)),
                entry.alpha,
            )
            for entry in self._layers[module]
            if entry.alpha
        ]

    def _read_up(self, entry: _FileLayer) -> np.ndarray:
        up = self.file.read(entry.keys[UP])
        return (
            up if entry.up_scale == 1 else (up.astype(np.float32) / entry.up_scale).astype(up.dtype)
        )

    def _add(self, key: str, names: Mapping[str, LayerRows]) -> None:
        if key.removeprefix("base_model.model.").startswith(TEXT_ENCODERS):
            if TEXT_ENCODER not in self._ignore:
                raise UserError(
                    f"{self.file.path}: {key} adapts a text encoder, which this model does not"
                    f" have; launch.convert with --ignore={TEXT_ENCODER} converts the rest of the"
                    " LoRA."
                )
            self.ignored.append(key)
            return
        parts = parse_key(key)
        if parts is None:
            other = other_adapter(key) or ("LoRA with biases" if key.endswith("bias") else None)
            raise UserError(
                f"{self.file.path}: {key} is neither the down, the up nor the alpha of a LoRA;"
                + (
                    f" it belongs to a {other}, which cannot be read: merge it into its model with"
                    " the program that made it, and give the model."
                    if other
                    else " give a file that has only a LoRA."
                )
            )
        layer, half, adapter = parts
        if adapter is not None:
            if self._adapter not in (None, adapter):
                raise UserError(
                    f"{self.file.path} holds two adapters, {self._adapter} and {adapter}; save only"
                    " the one that you want."
                )
            self._adapter = adapter
        name = strip_prefixes(layer, names)
        if name not in names:
            raise UserError(
                f"{self.file.path}: {key} belongs to no linear layer of this model; {OTHER_MODEL}."
            )
        rows = names[name]
        entries = self._layers.setdefault(rows.module, [])
        entry = next((entry for entry in entries if entry.rows == rows), None)
        if entry is None:
            entry = _FileLayer(rows, {})
            entries.append(entry)
        if half in entry.keys:
            raise UserError(
                f"{self.file.path}: {entry.keys[half]} and {key} are the same half of the same"
                " layer; give a LoRA that has it once."
            )
        entry.keys[half] = key

    def _check(self, entry: _FileLayer, weight: tuple[int, int]) -> None:
        path, shapes, key = self.file.path, self.file.shapes, next(iter(entry.keys.values()))
        if DOWN not in entry.keys or UP not in entry.keys:
            missing = "down" if DOWN not in entry.keys else "up"
            raise UserError(
                f"{path}: the layer of {key} has no {missing}, so the file is incomplete;"
                " download it or save it again."
            )
        down, up = shapes[entry.keys[DOWN]], shapes[entry.keys[UP]]
        wanted = entry.rows.size, weight[1]
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or (up[0], down[1]) != wanted:
            raise UserError(
                f"{path}: {entry.keys[DOWN]} is {list(down)} and its up {list(up)}, which do not"
                f" fit a layer of {list(wanted)}; {OTHER_MODEL}."
            )
        if not 0 < down[0] <= max(weight):
            raise UserError(
                f"{path}: {entry.keys[DOWN]} has rank {down[0]}, but a layer of {list(wanted)} can"
                f" have 1 to {max(weight)}; download it or save it again."
            )
        for half in (DOWN, UP):
            dtype = self.file.dtypes[entry.keys[half]]
            if not jnp.issubdtype(dtype, jnp.floating):
                raise UserError(
                    f"{path}: {entry.keys[half]} is {dtype}, expected floating-point numbers; give"
                    " the LoRA as it was trained."
                )

    @functools.cached_property
    def _settings(self) -> list[Settings]:
        """Settings of ranks and alphas; they are read only if a layer has no alpha of its own."""
        return load_settings(self.file.path, self.file.metadata)

    def _alpha(self, entry: _FileLayer) -> float:
        down = entry.keys[DOWN]
        rank = self.file.shapes[down][0]
        if ALPHA in entry.keys:
            key = entry.keys[ALPHA]
            if math.prod(self.file.shapes[key]) != 1:
                raise UserError(
                    f"{self.file.path}: {key} has shape {list(self.file.shapes[key])}, but an alpha"
                    " is one number; download it or save it again."
                )
            alpha = float(self.file.read(key).reshape(-1)[0])
            if alpha < 0:
                raise UserError(
                    f"{self.file.path}: {key} is {alpha:g}, but an alpha must not be negative; to"
                    " subtract a LoRA, give a negative strength (--lora_scale)."
                )
            return alpha
        layer = layer_of(down).removeprefix("base_model.model.")
        names = layer, strip_prefixes(layer, ())
        alphas = {settings.source: settings.alpha(names, rank) for settings in self._settings}
        found = {source: alpha for source, alpha in alphas.items() if alpha is not None}
        if len(set(found.values())) > 1:
            values = " and ".join(f"{alpha:g} ({source})" for source, alpha in found.items())
            raise UserError(
                f"the settings give {layer} different alphas: {values}; remove those of other"
                " LoRAs."
            )
        return next(iter(found.values()), float(rank))

    def _in_tensors(self) -> dict[str, float]:
        """Return alphas that are multiplied into the ups, by the file's layer names."""
        if IN_TENSORS not in self.file.metadata:
            return {}
        source = f"{self.file.path}, {IN_TENSORS}"
        values = parse_json(self.file.metadata[IN_TENSORS], source)
        return build(dict[str, float], values, source)

    def _unscale_up(self, entry: _FileLayer, in_tensors: Mapping[str, float]) -> None:
        """Restore an alpha that was multiplied into its up."""
        rank = self.file.shapes[entry.keys[DOWN]][0]
        alpha = in_tensors.get(layer_of(entry.keys[DOWN]), 0)
        if alpha > 0 and entry.alpha == rank and abs(math.frexp(alpha / rank)[0]) == 0.5:
            entry.alpha, entry.up_scale = alpha, alpha / rank


def fuse_deltas(deltas: Sequence[LoraDelta], rows: int) -> LoraDelta:
    """Fuse deltas of one weight to a single delta of all its rows.

    If all have the same down (a fused layer that was split), their ups are concatenated, exactly.
    Else they become blocks: downs are stacked, ups are on a diagonal, and the ranks add up; exact,
    too, as alpha / rank stays the same. Only if deltas differ in alpha / rank, the ups are
    multiplied by the ratio to the first one's, in float32.

    Args:
      deltas: ordered by their rows.
      rows: number of rows of the weight.
    """
    first = deltas[0]
    if len(deltas) == 1 and first.up.shape[0] == rows:
        return first
    dtypes = {half.dtype for delta in deltas for half in (delta.down, delta.up)}
    ratios = [
        # as products, because alpha / rank may be rounded
        1.0 if delta.alpha * first.rank == first.alpha * delta.rank else delta.scale / first.scale
        for delta in deltas
    ]
    dtype = dtypes.pop() if len(dtypes) == 1 and set(ratios) == {1.0} else np.dtype(np.float32)
    shared = all(
        delta.down.dtype == first.down.dtype and np.array_equal(delta.down, first.down)
        for delta in deltas
    )
    downs = [first.down] if shared else [delta.down for delta in deltas]
    down = np.concatenate([half.astype(dtype) for half in downs])
    up = np.zeros((rows, len(down)), dtype)
    column = 0
    for delta, ratio in zip(deltas, ratios, strict=True):
        values = delta.up if ratio == 1.0 else ratio * delta.up.astype(np.float32)
        where = slice(delta.start, delta.start + len(delta.up))
        up[where, column : column + delta.rank] = values.astype(dtype)
        column += 0 if shared else delta.rank
    return LoraDelta(0, down, up, first.alpha * len(down) / first.rank)


def split_delta(delta: LoraDelta, layers: Sequence[LayerRows]) -> list[tuple[LayerRows, LoraDelta]]:
    """Split a delta of an official weight into deltas of the layers that make it up, exactly.

    The rows of the up are distributed, and all layers get the same down; but if the up is
    block-diagonal, as `fuse_deltas` makes it, each layer gets only its own block.

    Args:
      delta: of all rows.
      layers: the layers, ordered by their rows.
    """
    ups = [layer.take(delta.up) for layer in layers]
    rank = delta.rank // len(layers)
    if len(layers) > 1 and rank * len(layers) == delta.rank:
        blocks = [
            [up[:, j * rank : (j + 1) * rank].any() for j in range(len(layers))] for up in ups
        ]
        if np.array_equal(blocks, np.eye(len(layers), dtype=bool)):
            return [
                (layer, _block(delta, layer, up, slice(i * rank, (i + 1) * rank)))
                for i, (layer, up) in enumerate(zip(layers, ups, strict=True))
            ]
    all_columns = slice(0, delta.rank)
    return [
        (layer, _block(delta, layer, up, all_columns))
        for layer, up in zip(layers, ups, strict=True)
    ]


def _block(delta: LoraDelta, layer: LayerRows, up: np.ndarray, columns: slice) -> LoraDelta:
    down = delta.down[columns]
    alpha = delta.alpha * len(down) / delta.rank
    return LoraDelta(layer.start, down, np.ascontiguousarray(up[:, columns]), alpha)
