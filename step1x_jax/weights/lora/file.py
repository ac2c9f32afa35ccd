"""LoRA files of the kinds that occur, read strictly, as pieces of the published layers.

A LoRA adds alpha / rank * up @ down to the weight of a linear layer, down (rank, in), up (out,
rank). Whatever a file calls the layer (see names.py) and whether it has it fused or in parts,
here it is a `Piece` or several: rows of the published layer. What writes LoRAs (writers.py) and
what trains them (adapters.py) sees nothing else.

| halves | alpha |
|---|---|
| .lora_down.weight, .lora_up.weight (kohya) | .alpha, or what the header says |
| .lora_A.weight, .lora_A.NAME.weight, .lora_B... (PEFT, diffusers) | .alpha, or PEFT's settings |

lora_settings.py reads, in the file's header or beside it, what is not in the tensors. Where no
alpha is given anywhere, alpha / rank is 1, as all the programs that read such files have it. An
alpha of 0 switches a layer off.
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
from step1x_jax.weights.files.opening import LORA_NAMES, open_stored
from step1x_jax.weights.kinds import other_adapter
from step1x_jax.weights.layouts.official import Table
from step1x_jax.weights.lora.keys import ALPHA, DOWN, TEXT_ENCODERS, UP, bare, key_parts, layer_of
from step1x_jax.weights.lora.names import Rows, adaptable, spellings
from step1x_jax.weights.lora.settings import Settings, settings_of

TEXT_ENCODER = "text_encoder"  # what may be ignored
OF_OTHER_SIZES = (
    "it was made for another model, or for one of other sizes (name that one to launch.convert with"
    " --base)"
)
# In the header of a file that we write for diffusers: the alpha of each layer whose alpha / rank is
# multiplied into its up, exactly; see writers.py.
IN_TENSORS = "step1x_jax_alpha_in_tensors"


class Piece(NamedTuple):
    """What a LoRA adds to rows of a published weight: alpha / rank * up @ down."""

    start: int  # the first of its rows
    down: np.ndarray  # (rank, in)
    up: np.ndarray  # (rows, rank)
    alpha: float

    @property
    def rank(self) -> int:
        """Of the product."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank


class Lora(Protocol):
    """A LoRA of this model, wherever it comes from."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """The adapted published layers and the shapes of their weights."""

    def pieces(self, module: str) -> list[Piece]:
        """What is added to a published layer's weight; the rows do not overlap."""


@dataclasses.dataclass
class _Stored:
    """A layer in a file: the keys of its halves, and its alpha."""

    rows: Rows
    keys: dict[str, str]
    alpha: float = math.nan
    in_up: float = 1.0  # what its up has been multiplied by, a power of two


class LoraFile:
    """An open LoRA file or folder whose every tensor is known to belong to a layer of the model."""

    def __init__(self, path: epath.PathLike, table: Table, ignore: Sequence[str] = ()):
        """Reads the header and the alphas, and matches them with the model.

        Args:
          path: the .safetensors file, or the folder that PEFT or diffusers wrote.
          table: official names and shapes of the model.
          ignore: ("text_encoder",) leaves its tensors out; `left_out` names them.

        Raises:
          UserError: a tensor belongs to no layer, is there twice, has a wrong shape or dtype, or
            its partner is missing; the settings beside the file are of no plain LoRA.
        """
        self.file = open_stored(path, LORA_NAMES)
        self.left_out: list[str] = []
        self._ignore = ignore
        self._model = adaptable(table)
        self._stored: dict[str, list[_Stored]] = {}  # by published layer
        self._adapter: str | None = None
        names = spellings(table)
        for key in self.file.shapes:
            self._add(key, names)
        if not self._stored:
            what = "has layers of a text encoder alone" if self.left_out else "is empty"
            raise UserError(f"{self.file.path} {what}; give the file of a LoRA.")
        in_tensors = self._in_tensors()
        for module, stored in self._stored.items():
            for one in stored:
                self._check(one, self._model[module])
                one.alpha = self._alpha(one)
                self._take_out(one, in_tensors)
            stored.sort(key=lambda one: one.rows.start)
            for one, other in itertools.pairwise(stored):
                if one.rows.start + one.rows.size > other.rows.start:
                    raise UserError(
                        f"{self.file.path}: {one.keys[DOWN]} and {other.keys[DOWN]} both adapt"
                        f" {module}; give a LoRA that has it once."
                    )
        if not self.shapes:
            raise UserError(
                f"{self.file.path} is switched off as a whole: its alphas are 0; give a LoRA that"
                " does something."
            )

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The adapted published layers and the shapes of their weights."""
        return {
            module: self._model[module]
            for module, stored in self._stored.items()
            if any(one.alpha for one in stored)
        }

    @property
    def switched_off(self) -> list[str]:
        """The file's layers whose alpha is 0."""
        return [
            layer_of(one.keys[DOWN])
            for stored in self._stored.values()
            for one in stored
            if not one.alpha
        ]

    @property
    def settings(self) -> dict[str, tuple[int, float]]:
        """Rank and alpha of each layer, by the name of the file's own layer."""
        return {
            layer_of(one.keys[DOWN]): (self.file.shapes[one.keys[DOWN]][0], one.alpha)
            for stored in self._stored.values()
            for one in stored
        }

    def pieces(self, module: str) -> list[Piece]:
        """What is added to a published layer's weight, read now, in the file's dtype."""
        return [
            Piece(
                one.rows.start,
                self.file.read(one.keys[DOWN]),
                one.rows.put_back(self._up(one)),
                one.alpha,
            )
            for one in self._stored[module]
            if one.alpha
        ]

    def _up(self, one: _Stored) -> np.ndarray:
        up = self.file.read(one.keys[UP])
        return up if one.in_up == 1 else (up.astype(np.float32) / one.in_up).astype(up.dtype)

    def _add(self, key: str, names: Mapping[str, Rows]) -> None:
        if key.removeprefix("base_model.model.").startswith(TEXT_ENCODERS):
            if TEXT_ENCODER not in self._ignore:
                raise UserError(
                    f"{self.file.path}: {key} is of a text encoder, which this model does not have;"
                    f" launch.convert with --ignore={TEXT_ENCODER} takes the rest of the LoRA."
                )
            self.left_out.append(key)
            return
        parts = key_parts(key)
        if parts is None:
            kind = other_adapter(key) or ("LoRA with biases" if key.endswith("bias") else None)
            raise UserError(
                f"{self.file.path}: {key} is neither the down, the up nor the alpha of a LoRA;"
                + (
                    f" it is of the kind {kind}, which cannot be read: merge it into its model with"
                    " the program that made it, and give the model."
                    if kind
                    else " give a file of a LoRA alone."
                )
            )
        layer, half, adapter = parts
        if adapter is not None:
            if self._adapter not in (None, adapter):
                raise UserError(
                    f"{self.file.path} holds two adapters, {self._adapter} and {adapter}; save the"
                    " one that is wanted alone."
                )
            self._adapter = adapter
        name = bare(layer, names)
        if name not in names:
            raise UserError(
                f"{self.file.path}: {key} belongs to no linear layer of this model;"
                f" {OF_OTHER_SIZES}."
            )
        rows = names[name]
        stored = self._stored.setdefault(rows.module, [])
        one = next((one for one in stored if one.rows == rows), None)
        if one is None:
            one = _Stored(rows, {})
            stored.append(one)
        if half in one.keys:
            raise UserError(
                f"{self.file.path}: {one.keys[half]} and {key} are the same half of the same layer;"
                " give a LoRA that has it once."
            )
        one.keys[half] = key

    def _check(self, one: _Stored, weight: tuple[int, int]) -> None:
        path, shapes, some = self.file.path, self.file.shapes, next(iter(one.keys.values()))
        if DOWN not in one.keys or UP not in one.keys:
            missing = "down" if DOWN not in one.keys else "up"
            raise UserError(
                f"{path}: {some} is there without the layer's {missing}, so the file is not whole;"
                " download or save it again."
            )
        down, up = shapes[one.keys[DOWN]], shapes[one.keys[UP]]
        wanted = one.rows.size, weight[1]
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or (up[0], down[1]) != wanted:
            raise UserError(
                f"{path}: {one.keys[DOWN]} is {list(down)} and its up {list(up)}, which do not fit"
                f" a layer of {list(wanted)}; {OF_OTHER_SIZES}."
            )
        if not 0 < down[0] <= max(weight):
            raise UserError(
                f"{path}: {one.keys[DOWN]} has rank {down[0]}, but a layer of {list(wanted)} takes"
                f" 1 to {max(weight)}; download or save it again."
            )
        for half in (DOWN, UP):
            dtype = self.file.dtypes[one.keys[half]]
            if not jnp.issubdtype(dtype, jnp.floating):
                raise UserError(
                    f"{path}: {one.keys[half]} is {dtype}, and a LoRA's numbers are floating;"
                    " give the LoRA as it was trained."
                )

    @functools.cached_property
    def _settings(self) -> list[Settings]:
        """What is said of ranks and alphas, looked up where a layer has no alpha of its own."""
        return settings_of(self.file.path, self.file.metadata)

    def _alpha(self, one: _Stored) -> float:
        down = one.keys[DOWN]
        rank = self.file.shapes[down][0]
        if ALPHA in one.keys:
            key = one.keys[ALPHA]
            if math.prod(self.file.shapes[key]) != 1:
                raise UserError(
                    f"{self.file.path}: {key} has shape {list(self.file.shapes[key])}, and an alpha"
                    " is one number; download or save it again."
                )
            alpha = float(self.file.read(key).reshape(-1)[0])
            if alpha < 0:
                raise UserError(
                    f"{self.file.path}: {key} is {alpha:g}, no positive number; a LoRA is turned"
                    " round by a negative strength (--lora_scale), not by its alpha."
                )
            return alpha
        layer = layer_of(down).removeprefix("base_model.model.")
        names = layer, bare(layer, ())
        said = {place: place.alpha(names, rank) for place in self._settings}
        found = {place.source: alpha for place, alpha in said.items() if alpha is not None}
        if len(set(found.values())) > 1:
            told = " and ".join(f"{alpha:g} ({source})" for source, alpha in found.items())
            raise UserError(
                f"the alpha of {layer} is said to be {told}; remove what is not of this LoRA."
            )
        return next(iter(found.values()), float(rank))

    def _in_tensors(self) -> dict[str, float]:
        """Alphas that are in the ups already, by the file's own layers."""
        if IN_TENSORS not in self.file.metadata:
            return {}
        source = f"{self.file.path}, {IN_TENSORS}"
        values = parse_json(self.file.metadata[IN_TENSORS], source)
        return build(dict[str, float], values, source)

    def _take_out(self, one: _Stored, in_tensors: Mapping[str, float]) -> None:
        rank = self.file.shapes[one.keys[DOWN]][0]
        alpha = in_tensors.get(layer_of(one.keys[DOWN]), 0)
        if alpha > 0 and one.alpha == rank and abs(math.frexp(alpha / rank)[0]) == 0.5:
            one.alpha, one.in_up = alpha, alpha / rank


def whole(pieces: Sequence[Piece], rows: int) -> Piece:
    """Pieces of one weight as a single product.

    Pieces with one and the same down (a fused layer taken apart) are put together again, exactly.
    Others lie in blocks: downs on top of each other, ups along a diagonal, and the rank is the sum;
    exact too, with alpha / rank as before. Only where the pieces differ in alpha / rank are the ups
    multiplied by the ratio to the first one's, in float32.

    Args:
      pieces: ordered by their rows.
      rows: of the weight.
    """
    first = pieces[0]
    if len(pieces) == 1 and first.up.shape[0] == rows:
        return first
    dtypes = {half.dtype for piece in pieces for half in (piece.down, piece.up)}
    ratios = [
        # as a product, because alpha / rank may be a rounded number
        1.0 if piece.alpha * first.rank == first.alpha * piece.rank else piece.scale / first.scale
        for piece in pieces
    ]
    dtype = dtypes.pop() if len(dtypes) == 1 and set(ratios) == {1.0} else np.dtype(np.float32)
    shared = all(
        piece.down.dtype == first.down.dtype and np.array_equal(piece.down, first.down)
        for piece in pieces
    )
    downs = [first.down] if shared else [piece.down for piece in pieces]
    down = np.concatenate([half.astype(dtype) for half in downs])
    up = np.zeros((rows, len(down)), dtype)
    column = 0
    for piece, ratio in zip(pieces, ratios, strict=True):
        values = piece.up if ratio == 1.0 else ratio * piece.up.astype(np.float32)
        where = slice(piece.start, piece.start + len(piece.up))
        up[where, column : column + piece.rank] = values.astype(dtype)
        column += 0 if shared else piece.rank
    return Piece(0, down, up, first.alpha * len(down) / first.rank)


def taken_apart(piece: Piece, parts: Sequence[Rows]) -> list[tuple[Rows, Piece]]:
    """A product for a published weight as one for each of the layers that make it up, exactly.

    The rows of the up are shared out and the down is the same for all; but where the ups are the
    blocks that `whole` puts along a diagonal, each layer gets its own block.

    Args:
      piece: of all rows.
      parts: the layers, ordered by their rows.
    """
    ups = [part.taken(piece.up) for part in parts]
    rank = piece.rank // len(parts)
    if len(parts) > 1 and rank * len(parts) == piece.rank:
        blocks = [[up[:, j * rank : (j + 1) * rank].any() for j in range(len(parts))] for up in ups]
        if np.array_equal(blocks, np.eye(len(parts), dtype=bool)):
            return [
                (part, _block(piece, part, up, slice(i * rank, (i + 1) * rank)))
                for i, (part, up) in enumerate(zip(parts, ups, strict=True))
            ]
    every = slice(0, piece.rank)
    return [(part, _block(piece, part, up, every)) for part, up in zip(parts, ups, strict=True)]


def _block(piece: Piece, part: Rows, up: np.ndarray, columns: slice) -> Piece:
    down = piece.down[columns]
    alpha = piece.alpha * len(down) / piece.rank
    return Piece(part.start, down, np.ascontiguousarray(up[:, columns]), alpha)
