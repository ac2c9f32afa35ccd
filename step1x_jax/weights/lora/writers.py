"""Writes a LoRA of any format in kohya's format and in PEFT's.

kohya: the official layers, fused, with alpha; for ComfyUI and the published fine-tuning scripts.
PEFT: the layers of diffusers' model, in a folder with PEFT's settings, or in one file for
diffusers.

In kohya's file and PEFT's folder alpha is not multiplied into the numbers, which stay as trained.
diffusers reads the settings in a file's header in some calls and ignores them in others
(load_lora_adapter("x.safetensors"), for example). Therefore in its file the ups are multiplied by
alpha / rank and alpha is set to the rank, which all calls interpret correctly. If alpha / rank is a
power of two, so that this is exact, an entry of ours in the header records it, and conversion back
reproduces the original file.
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
from step1x_jax.weights.finite import RequireFinite
from step1x_jax.weights.lora.file import (
    ALPHA,
    DOWN,
    IN_TENSORS,
    UP,
    Lora,
    LoraDelta,
    fuse_deltas,
    split_delta,
)
from step1x_jax.weights.lora.names import diffusers_layers, kohya_name
from step1x_jax.weights.lora.settings import CONFIG, METADATA
from step1x_jax.weights.readers import RowIndices, Shape

Layers = Callable[[str], Mapping[str, LoraDelta]]  # official layer -> the file's layers


def save_kohya(path: epath.PathLike, lora: Lora, dtype: str | None = None) -> None:
    """Write kohya's format; layers that were split are fused exactly.

    Args:
      path: the .safetensors file.
      lora: in any format.
      dtype: of downs and ups; None: unchanged.

    Raises:
      UserError: the file cannot be written.
    """

    def layers(module: str) -> dict[str, LoraDelta]:
        return {kohya_name(module): fuse_deltas(lora.deltas(module), lora.shapes[module][0])}

    _write(path, lora, layers, (DOWN, UP), dtype, alphas=True)


def save_peft(path: epath.PathLike, lora: Lora, dtype: str | None = None) -> None:
    """Write PEFT's format for diffusers' model.

    Args:
      path: ending in .safetensors, a file for diffusers' `load_lora_adapter` (keys begin with
        "transformer.", alpha / rank is in the ups); else a folder as PEFT writes it
        (adapter_model.safetensors, adapter_config.json).
      lora: in any format.
      dtype: of downs and ups; None: unchanged.

    Raises:
      UserError: the file cannot be written.
    """
    path = epath.Path(path)
    in_folder = path.suffix != ".safetensors"
    prefix = "base_model.model." if in_folder else "transformer."

    def layers(module: str) -> dict[str, LoraDelta]:
        shape = lora.shapes[module]
        split = split_delta(
            fuse_deltas(lora.deltas(module), shape[0]), diffusers_layers(module, shape)
        )
        return {prefix + layer.name: delta for layer, delta in split}

    def scaled(module: str) -> dict[str, LoraDelta]:
        return {name: _fold_alpha(delta, dtype) for name, delta in layers(module).items()}

    settings: dict[str, tuple[int, float]] = {}  # rank and alpha by layer
    in_tensors: dict[str, float] = {}  # alpha by layer
    for module in lora.shapes:
        for name, delta in layers(module).items():
            alpha = delta.alpha if in_folder else delta.rank
            settings[name.removeprefix(prefix)] = delta.rank, alpha
            if not in_folder and _is_exact(delta, dtype):
                in_tensors[name] = delta.alpha
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


def _fold_alpha(delta: LoraDelta, dtype: str | None) -> LoraDelta:
    """Return the same product with alpha = rank; the up is rounded once, to its dtype."""
    if delta.alpha == delta.rank:
        return delta
    up = delta.up.astype(np.float32) * np.float32(delta.scale)
    up = up.astype(jnp.dtype(dtype or delta.up.dtype))
    return LoraDelta(delta.start, delta.down, up, float(delta.rank))


def _is_exact(delta: LoraDelta, dtype: str | None) -> bool:
    """Return whether the original up can be computed from that of `_fold_alpha`."""
    if delta.alpha == delta.rank or abs(math.frexp(delta.scale)[0]) != 0.5:
        return False
    up = _fold_alpha(delta, dtype).up
    wanted = delta.up if dtype is None else delta.up.astype(jnp.dtype(dtype))
    return np.array_equal((up.astype(np.float32) / delta.scale).astype(up.dtype), wanted)


def peft_config(settings: Mapping[str, tuple[int, float]]) -> dict:
    """Return the arguments of a peft.LoraConfig with these ranks and alphas.

    Args:
      settings: rank and alpha by the layer's name.
    """

    def most_common(values: list) -> float:
        return collections.Counter(values).most_common(1)[0][0]

    rank = most_common([rank for rank, _ in settings.values()])
    alpha = most_common([alpha for _, alpha in settings.values()])
    # A pattern matches every name that ends in it: "proj_out" is the last layer, but also matches
    # that of every single block unless it is anchored by ^.
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
    """Write layer by layer; each is made twice, first for its shapes, then for its numbers."""
    cached = lru_cache(1)(layers)  # a layer's keys are adjacent in a file
    source: dict[str, tuple[str, str, str]] = {}  # key -> official layer, file's layer, half
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, np.dtype] = {}
    for module in lora.shapes:
        for name, delta in cached(module).items():
            for key, half, array in zip(
                (name + half for half in halves), (DOWN, UP), (delta.down, delta.up), strict=True
            ):
                source[key] = module, name, half
                shapes[key] = array.shape
                dtypes[key] = np.dtype(jnp.dtype(dtype or array.dtype))
            if alphas:
                source[name + ALPHA] = module, name, ALPHA
                shapes[name + ALPHA], dtypes[name + ALPHA] = (), np.dtype(np.float32)
    tensors = _LoraTensors(cached, source, shapes, dtypes, metadata or {})
    write_safetensors(path, RequireFinite(tensors, path))


@dataclasses.dataclass
class _LoraTensors:
    """A reader of a LoRA's layers by the keys of a file."""

    layers: Layers
    source: Mapping[str, tuple[str, str, str]]  # key -> official layer, file's layer, half
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, np.dtype]
    metadata: Mapping[str, str]

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read a half or an alpha."""
        module, layer, half = self.source[name]
        delta = self.layers(module)[layer]
        array = {DOWN: delta.down, UP: delta.up, ALPHA: np.array(delta.alpha)}[half]
        with np.errstate(over="ignore"):  # writing refuses numbers that overflow
            array = array.astype(self.dtypes[name])
        return array if rows is None else array[rows]
