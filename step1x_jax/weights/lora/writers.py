"""Writes a LoRA, whatever it was read from, in kohya's form and in PEFT's.

kohya: the published layers, fused, with alpha: for ComfyUI and the published fine-tuning. PEFT: the
layers of diffusers' model, in a folder with the settings of PEFT, or in one file for diffusers.

In kohya's file and PEFT's folder alpha is not multiplied into the numbers, so that they stay as
trained. diffusers reads the settings in a file's header in some calls and ignores them in others
(load_lora_adapter("x.safetensors"), say): so in its file the ups are multiplied by alpha / rank,
and alpha is said to be the rank, which all of them understand. Where that is a power of two and so
exact, our own entry in the header says what was multiplied, and the way back gives the same file.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.files import making_folder
from step1x_jax.json_files import write_json
from step1x_jax.weights.files.opening import LORA_NAMES
from step1x_jax.weights.files.safetensors_io import write_safetensors
from step1x_jax.weights.finite import Finite
from step1x_jax.weights.lora.file import (
    ALPHA,
    DOWN,
    IN_TENSORS,
    UP,
    Lora,
    Piece,
    taken_apart,
    whole,
)
from step1x_jax.weights.lora.names import diffusers_layers, kohya_name
from step1x_jax.weights.lora.settings import CONFIG, METADATA
from step1x_jax.weights.readers import Rows, Shape

Layers = Callable[[str], Mapping[str, Piece]]  # published layer -> the file's layers


def save_kohya(path: epath.PathLike, lora: Lora, dtype: str | None = None) -> None:
    """Writes kohya's form; where a layer was in parts, the result is the same to the bit.

    Args:
      path: the .safetensors file.
      lora: of any kind.
      dtype: of downs and ups; None keeps them as they are.

    Raises:
      UserError: the file cannot be written.
    """

    def layers(module: str) -> dict[str, Piece]:
        return {kohya_name(module): whole(lora.pieces(module), lora.shapes[module][0])}

    _write(path, lora, layers, (DOWN, UP), dtype, alphas=True)


def save_peft(path: epath.PathLike, lora: Lora, dtype: str | None = None) -> None:
    """Writes PEFT's form for diffusers' model.

    Args:
      path: a .safetensors file is written for diffusers' `load_lora_adapter` (keys begin with
        "transformer.", alpha / rank is in the ups); anything else is a folder as PEFT writes it
        (adapter_model.safetensors, adapter_config.json).
      lora: of any kind.
      dtype: of downs and ups; None keeps them as they are.

    Raises:
      UserError: the file cannot be written.
    """
    path = epath.Path(path)
    in_folder = path.suffix != ".safetensors"
    prefix = "base_model.model." if in_folder else "transformer."

    def layers(module: str) -> dict[str, Piece]:
        shape = lora.shapes[module]
        parts = taken_apart(whole(lora.pieces(module), shape[0]), diffusers_layers(module, shape))
        return {prefix + rows.name: piece for rows, piece in parts}

    def scaled(module: str) -> dict[str, Piece]:
        return {name: _with_alpha(piece, dtype) for name, piece in layers(module).items()}

    settings: dict[str, tuple[int, float]] = {}  # rank and alpha
    in_tensors: dict[str, float] = {}  # alpha
    for module in lora.shapes:
        for name, piece in layers(module).items():
            alpha = piece.alpha if in_folder else piece.rank
            settings[name.removeprefix(prefix)] = piece.rank, alpha
            if not in_folder and _is_exact(piece, dtype):
                in_tensors[name] = piece.alpha
    config = peft_config(settings)
    halves = (".lora_A.weight", ".lora_B.weight")
    if in_folder:
        with making_folder(path) as temporary:
            _write(temporary / LORA_NAMES[0], lora, layers, halves, dtype)
            write_json(temporary / CONFIG, {"peft_type": "LORA", **config})
    else:
        values = {prefix + key: value for key, value in config.items()}
        metadata = {METADATA: json.dumps(values, sort_keys=True)}
        if in_tensors:
            metadata[IN_TENSORS] = json.dumps(in_tensors, sort_keys=True)
        _write(path, lora, scaled, halves, dtype, metadata)


def _with_alpha(piece: Piece, dtype: str | None) -> Piece:
    """The same product with an alpha / rank of 1; the up is rounded once, to its dtype."""
    if piece.alpha == piece.rank:
        return piece
    up = piece.up.astype(np.float32) * np.float32(piece.scale)
    up = up.astype(jnp.dtype(dtype or piece.up.dtype))
    return Piece(piece.start, piece.down, up, float(piece.rank))


def _is_exact(piece: Piece, dtype: str | None) -> bool:
    """Whether the up can be told from what `_with_alpha` makes of it."""
    if piece.alpha == piece.rank or abs(math.frexp(piece.scale)[0]) != 0.5:
        return False
    up = _with_alpha(piece, dtype).up
    wanted = piece.up if dtype is None else piece.up.astype(jnp.dtype(dtype))
    return np.array_equal((up.astype(np.float32) / piece.scale).astype(up.dtype), wanted)


def peft_config(settings: Mapping[str, tuple[int, float]]) -> dict:
    """The arguments of a peft.LoraConfig with these ranks and alphas.

    Args:
      settings: rank and alpha by the layer's name.
    """

    def common(values: list) -> float:
        return collections.Counter(values).most_common(1)[0][0]

    rank = common([rank for rank, _ in settings.values()])
    alpha = common([alpha for _, alpha in settings.values()])
    # A pattern means every name that ends in it: "proj_out" is the last layer, but also that of
    # every single block, unless it is told where names begin.
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": r for name, (r, _) in settings.items() if r != rank},
        "alpha_pattern": {f"^{name}": a for name, (_, a) in settings.items() if a != alpha},
        "target_modules": sorted(settings),
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _write(
    path: epath.PathLike,
    lora: Lora,
    layers: Layers,
    halves: tuple[str, str],
    dtype: str | None,
    metadata: Mapping[str, str] | None = None,
    alphas: bool = False,
) -> None:
    """Writes layer by layer; each is made twice, once for its shapes and once for its numbers."""
    cached = lru_cache(1)(layers)  # the keys of one layer follow each other in a file
    source: dict[str, tuple[str, str, str]] = {}  # key -> published layer, file's layer, half
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, np.dtype] = {}
    for module in lora.shapes:
        for name, piece in cached(module).items():
            for key, half, array in zip(
                (name + half for half in halves), (DOWN, UP), (piece.down, piece.up), strict=True
            ):
                source[key] = module, name, half
                shapes[key] = array.shape
                dtypes[key] = np.dtype(jnp.dtype(dtype or array.dtype))
            if alphas:
                source[name + ALPHA] = module, name, ALPHA
                shapes[name + ALPHA], dtypes[name + ALPHA] = (), np.dtype(np.float32)
    tensors = _Halves(cached, source, shapes, dtypes, metadata or {})
    write_safetensors(path, Finite(tensors, path))


@dataclasses.dataclass
class _Halves:
    """A LoRA's layers as a reader of a file's keys."""

    layers: Layers
    source: Mapping[str, tuple[str, str, str]]  # key -> published layer, file's layer, half
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, np.dtype]
    metadata: Mapping[str, str]

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """A half or an alpha."""
        module, layer, half = self.source[name]
        piece = self.layers(module)[layer]
        array = {DOWN: piece.down, UP: piece.up, ALPHA: np.array(piece.alpha)}[half]
        with np.errstate(over="ignore"):  # what is too large is refused when it is written
            array = array.astype(self.dtypes[name])
        return array if rows is None else array[rows]
