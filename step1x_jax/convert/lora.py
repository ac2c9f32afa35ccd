"""LoRA files of the kinds that occur, read strictly, as pieces of the published layers.

A LoRA adds alpha / rank * up @ down to the weight of a linear layer, down (rank, in), up (out,
rank). Whatever a file calls the layer (see lora_names.py) and whether it has it fused or in parts,
here it is a `Piece` or several: rows of the published layer. What writes LoRAs (lora_files.py) and
what trains them (adapters.py) sees nothing else.

| halves | alpha |
|---|---|
| .lora_down.weight, .lora_up.weight (kohya) | .alpha |
| .lora_A.weight, .lora_B.weight (PEFT, diffusers) | .alpha, or PEFT's settings: in the file's own \
header (lora_adapter_metadata) or beside it (adapter_config.json) |

Where no alpha is given, alpha / rank is 1, as all the programs that read such files have it.
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.convert.keys import Table
from step1x_jax.convert.lora_names import Rows, adaptable, spellings
from step1x_jax.convert.safetensors_io import SafetensorsFile
from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
HALVES = {DOWN: DOWN, UP: UP, ALPHA: ALPHA, ".lora_A.weight": DOWN, ".lora_B.weight": UP}
PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.")
IN_FOLDER = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"


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


class LoraFile:
    """An open LoRA file or folder whose every tensor is known to belong to a layer of the model."""

    def __init__(self, path: epath.PathLike, table: Table):
        """Reads the header and the alphas, and matches them with the model.

        Args:
          path: the .safetensors file, or the folder that PEFT or diffusers wrote.
          table: official names and shapes of the model.

        Raises:
          UserError: a tensor belongs to no layer, is there twice, has a wrong shape or dtype, or
            its partner is missing; the settings beside the file are of no plain LoRA.
        """
        self.file = SafetensorsFile(_weights(path))
        self._model = adaptable(table)
        self._stored: dict[str, list[_Stored]] = {}  # by published layer
        names = spellings(table)
        for key in self.file.shapes:
            self._add(key, names)
        if not self._stored:
            raise UserError(f"{self.file.path} is empty; give the file of a LoRA.")
        settings = _settings(self.file)
        for module, stored in self._stored.items():
            for one in stored:
                self._check(one, self._model[module])
                one.alpha = self._alpha(one, settings)
            stored.sort(key=lambda one: one.rows.start)
            for one, other in itertools.pairwise(stored):
                if one.rows.start + one.rows.size > other.rows.start:
                    raise UserError(
                        f"{self.file.path}: {one.keys[DOWN]} and {other.keys[DOWN]} both adapt"
                        f" {module}; give a LoRA that has it once."
                    )

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The adapted published layers and the shapes of their weights."""
        return {module: self._model[module] for module in self._stored}

    @property
    def settings(self) -> dict[str, tuple[int, float]]:
        """Rank and alpha of each layer, by the name of the file's own layer."""
        return {
            one.keys[DOWN].rsplit(".lora_", 1)[0]: (self.file.shapes[one.keys[DOWN]][0], one.alpha)
            for stored in self._stored.values()
            for one in stored
        }

    def pieces(self, module: str) -> list[Piece]:
        """What is added to a published layer's weight, read now, in the file's dtype."""
        return [
            Piece(
                one.rows.start,
                self.file.read(one.keys[DOWN]),
                one.rows.put_back(self.file.read(one.keys[UP])),
                one.alpha,
            )
            for one in self._stored[module]
        ]

    def _add(self, key: str, names: Mapping[str, Rows]) -> None:
        suffix = next((suffix for suffix in HALVES if key.endswith(suffix)), None)
        if suffix is None:
            raise UserError(
                f"{self.file.path}: {key} is neither the down, the up nor the alpha of a LoRA;"
                " other kinds of adapters (DoRA, LoHa, LoKr, biases) cannot be read."
            )
        name = _bare(key.removesuffix(suffix))
        if name not in names:
            raise UserError(f"{self.file.path}: {key} belongs to no linear layer of this model.")
        rows, half = names[name], HALVES[suffix]
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
            raise UserError(f"{path}: {some} is there without the layer's {missing}; fetch again.")
        down, up = shapes[one.keys[DOWN]], shapes[one.keys[UP]]
        wanted = one.rows.size, weight[1]
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or (up[0], down[1]) != wanted:
            raise UserError(
                f"{path}: {one.keys[DOWN]} is {list(down)} and its up {list(up)}, which do not fit"
                f" a layer of {list(wanted)}; it was made for another model."
            )
        if not 0 < down[0] <= max(weight):
            raise UserError(
                f"{path}: {one.keys[DOWN]} has rank {down[0]}, but a layer of {list(wanted)} takes"
                f" 1 to {max(weight)}; the file is damaged."
            )
        for half in (DOWN, UP):
            dtype = self.file.dtypes[one.keys[half]]
            if not jnp.issubdtype(dtype, jnp.floating):
                raise UserError(
                    f"{path}: {one.keys[half]} is {dtype}, and a LoRA's numbers are floating;"
                    " fetch the LoRA as it was trained."
                )

    def _alpha(self, one: _Stored, settings: "_Settings | None") -> float:
        rank = self.file.shapes[one.keys[DOWN]][0]
        if ALPHA in one.keys:
            stored = self.file.read(one.keys[ALPHA])
            alpha = float(stored.reshape(-1)[0]) if stored.size == 1 else math.nan
        else:
            name = _bare(one.keys[DOWN].removesuffix(".lora_A.weight").removesuffix(DOWN))
            alpha = float(rank) if settings is None else settings.alpha(name)
            if settings is not None and settings.rank(name) != rank:
                raise UserError(
                    f"{self.file.path}: {one.keys[DOWN]} has rank {rank}, its settings say"
                    f" {settings.rank(name)}; weights and settings are of different LoRAs."
                )
        if not 0 < alpha < math.inf:  # NaN is not
            raise UserError(
                f"{self.file.path}: the alpha of {one.keys[DOWN]} is no positive number; fetch"
                " again."
            )
        return alpha


def _bare(layer: str) -> str:
    """A layer's name without what says of which of several models it is."""
    for prefix in PREFIXES:
        layer = layer.removeprefix(prefix)
    return layer


def _weights(path: epath.PathLike) -> epath.Path:
    """The file, or the one of the folder."""
    path = epath.Path(path)
    if not path.is_dir():
        return path  # a missing file is named when it is opened
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} holds none of {', '.join(IN_FOLDER)}; give the LoRA's file itself.")


class _Settings:
    """Ranks and alphas as PEFT describes them: one for all layers, and patterns of names."""

    def __init__(self, path: epath.Path, values: dict[str, Any]):
        for field in ("use_rslora", "use_dora", "lora_bias"):
            if values.get(field):
                raise UserError(f"{path}: the LoRA has {field}, which cannot be converted.")
        self.path, self.values = path, values
        self.alpha(""), self.rank("")  # both are there and numbers

    def alpha(self, name: str) -> float:
        return self._value("lora_alpha", "alpha_pattern", name)

    def rank(self, name: str) -> float:
        return self._value("r", "rank_pattern", name)

    def _value(self, field: str, pattern: str, name: str) -> float:
        try:
            for key, value in (self.values.get(pattern) or {}).items():
                if re.match(rf"(.*\.)?({key})$", name):  # as PEFT itself does
                    return float(value)
            return float(self.values[field])
        except (KeyError, TypeError, ValueError, AttributeError, re.error) as e:
            raise UserError(
                f"{self.path}: {field} and {pattern} of the LoRA's settings cannot be read ({e!r});"
                " fetch again."
            ) from e


def _settings(file: SafetensorsFile) -> _Settings | None:
    """What is said of the LoRA beside its weights, if anything is."""
    beside = file.path.parent / CONFIG
    if file.path.name == IN_FOLDER[0] and beside.is_file():
        return _Settings(beside, read_json(beside))
    if METADATA not in file.metadata:
        return None
    try:
        values = dict(json.loads(file.metadata[METADATA]))
    except (ValueError, TypeError) as e:
        raise UserError(f"{file.path}: its {METADATA} cannot be read; fetch again.") from e
    # a pipeline's file has those of all its models, each under the model's name
    own = {
        key.removeprefix("transformer."): value
        for key, value in values.items()
        if key.startswith("transformer.")
    }
    return _Settings(file.path, own or values)


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
