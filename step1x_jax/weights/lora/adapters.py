"""Our adapters (models/lora.py) under the official names, and LoRAs converted to and from them.

For a linear layer of the official model a LoRA file has a down (rank, in) and an up (out, rank).
How they map to our halves follows from the table of layouts/official.py, which maps the layer's
weight to our kernels. Therefore the order of q and k's rows, for example, is defined only there.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from etils import epath
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.models.config import LoraConfig, ModelConfig
from step1x_jax.models.eight_bits import quantize
from step1x_jax.models.layers import abstract
from step1x_jax.models.lora import LoraTarget, attach
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.weights.filling import fill_params
from step1x_jax.weights.layouts.official import (
    ParamSlice,
    Table,
    TensorEntry,
    flatten_params,
    model_table,
)
from step1x_jax.weights.lora.file import DOWN, UP, Lora, LoraDelta, LoraFile, fuse_deltas
from step1x_jax.weights.lora.names import WEIGHT
from step1x_jax.weights.official_tensors import OfficialTensors
from step1x_jax.weights.readers import InMemory, Override


def _linear_layers(table: Table) -> Iterator[tuple[str, TensorEntry, LoraTarget]]:
    """Yield the official linear layers: name, weight, and target in our model (all blocks')."""
    for name, entry in table.items():
        if name.endswith(WEIGHT) and len(entry.shape) == 2:
            paths = tuple(part.path.removesuffix(".kernel") for part in entry.slices)
            shared = None if len(paths) == 1 else "up" if entry.axis else "down"
            yield name.removesuffix(WEIGHT), entry, LoraTarget(paths, shared)


def select_targets(config: ModelConfig, targets: Sequence[str]) -> tuple[Table, list[LoraTarget]]:
    """Select layers by patterns: official weights, and targets in our model.

    Args:
      config: of the model.
      targets: patterns of official names without ".weight"; * matches anything.

    Raises:
      UserError: a pattern matches no linear layer, or a layer is selected in some blocks only.
    """
    layers = list(_linear_layers(model_table(config)))
    for pattern in targets:
        if not any(fnmatch.fnmatchcase(name, pattern) for name, _, _ in layers):
            raise UserError(
                f"lora.targets: {pattern!r} selects no linear layer; names are like"
                f" {layers[-3][0]} or double_blocks.*.img_attn.qkv."
            )
    chosen: dict[LoraTarget, list[str]] = {}
    others: dict[LoraTarget, list[str]] = {}
    weights: Table = {}
    for name, entry, target in layers:
        matched = any(fnmatch.fnmatchcase(name, pattern) for pattern in targets)
        (chosen if matched else others).setdefault(target, []).append(name)
        if matched:
            weights[name] = entry
    for target, names in chosen.items():
        if target in others:
            raise UserError(
                f"lora.targets select {names[0]} but not {others[target][0]}; all single blocks"
                " (or double blocks) are one module here, so select the layer in all of them"
                " (single_blocks.*.linear1)."
            )
    return weights, list(chosen)


def add_adapters(
    model: nnx.Module, config: ModelConfig, lora: LoraConfig, rngs: nnx.Rngs | None = None
) -> None:
    """Attach adapters to a model, and quantize its frozen kernels, according to the settings.

    Args:
      model: connector and DiT, real or abstract.
      config: of the model.
      lora: the settings; rank 0: the model is not changed.
      rngs: for the random initialization of the adapters.

    Raises:
      UserError: see `select_targets`.
    """
    if not lora.rank:
        return
    _, selected = select_targets(config, lora.targets)
    rngs = nnx.Rngs(0) if rngs is None else rngs
    attach(model, selected, rank=lora.rank, alpha=lora.alpha, rngs=rngs)
    if lora.quantize != "none":
        quantize(model, quantized_paths(config), lora.quantize)


def quantized_paths(config: ModelConfig) -> list[str]:
    """Return paths of the linear layers that `quantize` stores in 8 bits: the blocks'."""
    _, selected = select_targets(config, LoraConfig().targets)
    return [path for target in selected for path in target.linears]


def lora_table(weights: Table, rank: int) -> Table:
    """Return names and shapes of a LoRA's tensors, and how our adapters hold them.

    Args:
      weights: entries of the adapted layers, see `select_targets`.
      rank: of every adapter.

    Returns:
      A table with single_blocks.0.linear1.lora_down.weight etc.
    """
    table: Table = {}
    for name, weight in weights.items():
        out, c_in = weight.shape
        downs = tuple(_half(part, "down", (rank, part.official_shape[1])) for part in weight.slices)
        ups = tuple(_half(part, "up", (part.official_shape[0], rank)) for part in weight.slices)
        if len(weight.slices) > 1 and weight.axis == 0:  # one input: the slices share a down
            downs = (_shared_half(downs),)
        if len(weight.slices) > 1 and weight.axis == 1:
            ups = (_shared_half(ups),)
        table[name + DOWN] = TensorEntry(name + DOWN, (rank, c_in), downs, axis=1)
        table[name + UP] = TensorEntry(name + UP, (out, rank), ups, axis=0)
    return table


def _half(kernel: ParamSlice, half: str, shape: tuple[int, int]) -> ParamSlice:
    """Return the down or up of a kernel's adapter; an up has the rows of the kernel."""
    path = f"{kernel.path.removesuffix('kernel')}adapter.{half}"
    rope = kernel.rope_head_dim if half == "up" else None
    return ParamSlice(path, kernel.layer, shape, (1, 0), rope)


def _shared_half(halves: Sequence[ParamSlice]) -> ParamSlice:
    """Return the slice whose path comes first in nnx's order: nnx keeps a shared array there."""
    return min(halves, key=lambda half: half.path.split("."))


class Adapters:
    """Our adapters as a LoRA of the official layers; see `Lora` in file.py."""

    def __init__(self, adapters: nnx.State, config: ModelConfig, lora: LoraConfig):
        """Determine the adapted official layers.

        Args:
          adapters: the nnx.LoRAParam of a model with adapters.
          config: of the model.
          lora: settings of the adapters.
        """
        weights, _ = select_targets(config, lora.targets)
        self.alpha = lora.alpha
        self.shapes = {name: (entry.shape[0], entry.shape[1]) for name, entry in weights.items()}
        self._tensors = OfficialTensors(lora_table(weights, lora.rank), flatten_params(adapters))

    def deltas(self, module: str) -> list[LoraDelta]:
        """Return the delta of a layer, float32: always one."""
        down, up = (self._tensors.read(module + half) for half in (DOWN, UP))
        return [LoraDelta(0, down, up, self.alpha)]


def abstract_adapters(config: ModelConfig, lora: LoraConfig) -> nnx.State:
    """Return the abstract nnx.LoRAParam of a model with adapters of these settings."""
    plain = dataclasses.replace(lora, quantize="none")

    def build(rngs: nnx.Rngs) -> nnx.Module:
        model = Step1XEdit(config, rngs=rngs)
        add_adapters(model, config, plain)
        return model

    return nnx.split_state(abstract(build)[1], nnx.LoRAParam, ...)[0]


def load_adapters(
    path: epath.PathLike,
    abstract_adapters: nnx.State,
    config: ModelConfig,
    lora: LoraConfig,
) -> nnx.State:
    """Load a LoRA file as adapters, for further training or use.

    Args:
      path: the file or folder, see `LoraFile`.
      abstract_adapters: the nnx.LoRAParam of a model with adapters, with shardings.
      config: of the model.
      lora: rank, alpha and targets, which must equal the file's.

    Raises:
      UserError: the file is for another model, or its settings differ.
    """
    file = LoraFile(path, model_table(config))
    weights, _ = select_targets(config, lora.targets)
    for name in sorted(weights.keys() ^ file.shapes.keys()):
        has = "adapts" if name in file.shapes else "does not adapt"
        raise UserError(
            f"{path} {has} {name}; set lora.targets so that they select exactly the file's layers."
        )
    deltas = _fuse_all(file)
    for name, delta in deltas.items():
        if (delta.rank, delta.alpha) != (lora.rank, lora.alpha):
            raise UserError(
                f"{path}: {name} has rank {delta.rank} and alpha {delta.alpha:g}, the config"
                f" {lora.rank} and {lora.alpha:g}; set lora.rank and lora.alpha, which all layers"
                " share, to these."
            )
    return _fill_adapters(abstract_adapters, deltas, weights, lora)


def to_adapters(lora: Lora, config: ModelConfig) -> tuple[nnx.State, LoraConfig]:
    """Convert any LoRA to our adapters, which have one rank and one alpha and exist in all blocks.

    Lower ranks and missing layers are padded with zeros. The result is the same (if layers differ
    in alpha / rank, up to float32 rounding), and training does not change these zeros.

    Args:
      lora: in any format.
      config: of the model.

    Returns:
      The nnx.LoRAParam and their settings.
    """
    deltas = _fuse_all(lora)
    rank = max(delta.rank for delta in deltas.values())
    first = next(iter(deltas.values()))
    patterns = {re.sub(r"(blocks)\.\d+\.", r"\1.*.", name) for name in deltas}
    settings = LoraConfig(
        rank=rank, alpha=first.alpha * rank / first.rank, targets=tuple(sorted(patterns))
    )
    weights, _ = select_targets(config, settings.targets)
    adapters = _fill_adapters(abstract_adapters(config, settings), deltas, weights, settings)
    return adapters, settings


def _fuse_all(lora: Lora) -> dict[str, LoraDelta]:
    return {name: fuse_deltas(lora.deltas(name), rows) for name, (rows, _) in lora.shapes.items()}


def _fill_adapters(
    abstract_params: nnx.State,
    deltas: Mapping[str, LoraDelta],
    weights: Table,
    settings: LoraConfig,
) -> nnx.State:
    """Fill abstract adapters with deltas, padded with zeros."""
    table = lora_table(weights, settings.rank)

    def read(name: str) -> np.ndarray:
        half = DOWN if name.endswith(DOWN) else UP
        delta = deltas.get(name.removesuffix(half))
        values = np.zeros(table[name].shape, np.float32)
        if delta is None:
            return values
        if half == DOWN:
            values[: delta.rank] = delta.down
        else:
            values[:, : delta.rank] = delta.up
            if delta.alpha * settings.rank != settings.alpha * delta.rank:
                values *= np.float32(delta.scale * settings.rank / settings.alpha)
        return values

    float32 = np.dtype(np.float32)
    halves: dict = {n: (x.shape, float32, partial(read, n)) for n, x in table.items()}
    tensors = Override(InMemory({}), halves)
    return fill_params(abstract_params, table, tensors)
