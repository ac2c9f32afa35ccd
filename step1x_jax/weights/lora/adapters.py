"""Our adapters (models/lora.py) by published names: which layers have one; LoRAs to and from them.

A LoRA file has, for a linear layer of the published model, a down (rank, in) and an up (out, rank).
Their numbers lie in our halves as those of the layer's weight lie in our kernels: this is derived
from the table of layouts/official.py, so what it says of q and k's order, say, is said once.
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
from step1x_jax.weights.filling import filled
from step1x_jax.weights.layouts.official import Entry, ParamSlice, Table, flat, model_table
from step1x_jax.weights.lora.file import DOWN, UP, Lora, LoraFile, Piece, whole
from step1x_jax.weights.lora.names import WEIGHT
from step1x_jax.weights.published import Published
from step1x_jax.weights.readers import Changed, InMemory


def _linear(table: Table) -> Iterator[tuple[str, Entry, LoraTarget]]:
    """The published linear layers: name, weight, and the place in our model (all layers' alike)."""
    for name, entry in table.items():
        if name.endswith(WEIGHT) and len(entry.shape) == 2:
            paths = tuple(part.path.removesuffix(".kernel") for part in entry.parts)
            shared = None if len(paths) == 1 else "up" if entry.axis else "down"
            yield name.removesuffix(WEIGHT), entry, LoraTarget(paths, shared)


def targeted(config: ModelConfig, targets: Sequence[str]) -> tuple[Table, list[LoraTarget]]:
    """What the patterns select: the published weights, and the places in our model.

    Args:
      config: of the model.
      targets: patterns of published names without ".weight"; * stands for anything.

    Raises:
      UserError: a pattern selects nothing, or they select only some layers of a kind.
    """
    rows = list(_linear(model_table(config)))
    for pattern in targets:
        if not any(fnmatch.fnmatchcase(name, pattern) for name, _, _ in rows):
            raise UserError(
                f"lora.targets: {pattern!r} selects no linear layer; names are like"
                f" {rows[-3][0]} or double_blocks.*.img_attn.qkv."
            )
    chosen: dict[LoraTarget, list[str]] = {}
    left: dict[LoraTarget, list[str]] = {}
    weights: Table = {}
    for name, entry, place in rows:
        matched = any(fnmatch.fnmatchcase(name, pattern) for pattern in targets)
        (chosen if matched else left).setdefault(place, []).append(name)
        if matched:
            weights[name] = entry
    for place, names in chosen.items():
        if place in left:
            raise UserError(
                f"lora.targets select {names[0]} but not {left[place][0]}; blocks of a kind are one"
                " module here, so select all of them (single_blocks.*.linear1)."
            )
    return weights, list(chosen)


def add_adapters(
    model: nnx.Module, config: ModelConfig, lora: LoraConfig, rngs: nnx.Rngs | None = None
) -> None:
    """Attaches the adapters that the settings ask for, and stores the frozen kernels as they say.

    Args:
      model: connector and DiT, real or abstract.
      config: its config.
      lora: the settings; rank 0 leaves the model alone.
      rngs: for the adapters' random start.

    Raises:
      UserError: see `targeted`.
    """
    if not lora.rank:
        return
    _, places = targeted(config, lora.targets)
    rngs = nnx.Rngs(0) if rngs is None else rngs
    attach(model, places, rank=lora.rank, alpha=lora.alpha, rngs=rngs)
    if lora.quantize != "none":
        quantize(model, quantized_paths(config), lora.quantize)


def quantized_paths(config: ModelConfig) -> list[str]:
    """The linear layers whose kernels `quantize` stores in 8 bits: those of the blocks."""
    _, places = targeted(config, LoraConfig().targets)
    return [path for place in places for path in place.linears]


def lora_table(weights: Table, rank: int) -> Table:
    """Names and shapes of a LoRA's tensors, and how they lie in our adapters.

    Args:
      weights: of the adapted layers, see `targeted`.
      rank: of every adapter.

    Returns:
      A table with single_blocks.0.linear1.lora_down.weight and so on.
    """
    table: Table = {}
    for name, weight in weights.items():
        out, c_in = weight.shape
        downs = tuple(_half(part, "down", (rank, part.piece[1])) for part in weight.parts)
        ups = tuple(_half(part, "up", (part.piece[0], rank)) for part in weight.parts)
        if len(weight.parts) > 1 and weight.axis == 0:  # one input: the parts hold one down
            downs = (_holder(downs),)
        if len(weight.parts) > 1 and weight.axis == 1:
            ups = (_holder(ups),)
        table[name + DOWN] = Entry(name + DOWN, (rank, c_in), downs, axis=1)
        table[name + UP] = Entry(name + UP, (out, rank), ups, axis=0)
    return table


def _half(kernel: ParamSlice, half: str, piece: tuple[int, int]) -> ParamSlice:
    """The down or the up of the adapter of one kernel; an up has the rows of the kernel."""
    path = f"{kernel.path.removesuffix('kernel')}adapter.{half}"
    return ParamSlice(path, kernel.layer, piece, (1, 0), kernel.rotated if half == "up" else None)


def _holder(halves: Sequence[ParamSlice]) -> ParamSlice:
    """Of several places of one array that under which nnx has it: the first in its order."""
    return min(halves, key=lambda half: half.path.split("."))


class Adapters:
    """Our adapters seen as a LoRA of the published layers; see file.py's `Lora`."""

    def __init__(self, adapters: nnx.State, config: ModelConfig, lora: LoraConfig):
        """Finds the published layers.

        Args:
          adapters: the nnx.LoRAParam of a model with adapters.
          config: of the model.
          lora: their settings.
        """
        weights, _ = targeted(config, lora.targets)
        self.alpha = lora.alpha
        self.shapes = {name: (entry.shape[0], entry.shape[1]) for name, entry in weights.items()}
        self._tensors = Published(lora_table(weights, lora.rank), flat(adapters))

    def pieces(self, module: str) -> list[Piece]:
        """The one product of a layer, float32."""
        down, up = (self._tensors.read(module + half) for half in (DOWN, UP))
        return [Piece(0, down, up, self.alpha)]


def abstract_adapters(config: ModelConfig, lora: LoraConfig) -> nnx.State:
    """Shapes of the nnx.LoRAParam that a model with these settings has."""
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
    """The adapters of a LoRA file, to be trained further or used.

    Args:
      path: the file or folder, see `LoraFile`.
      abstract_adapters: the nnx.LoRAParam of a model with adapters, and their shardings.
      config: of the model.
      lora: rank, alpha and targets; the file must have just these.

    Raises:
      UserError: the file is of another model, or its settings are others.
    """
    file = LoraFile(path, model_table(config))
    weights, _ = targeted(config, lora.targets)
    for name in sorted(weights.keys() ^ file.shapes.keys()):
        has = "adapts" if name in file.shapes else "does not adapt"
        raise UserError(
            f"{path} {has} {name}; set lora.targets so that they select just what the file has."
        )
    products = _products(file)
    for name, product in products.items():
        if (product.rank, product.alpha) != (lora.rank, lora.alpha):
            raise UserError(
                f"{path}: {name} has rank {product.rank} and alpha {product.alpha:g}, the config"
                f" {lora.rank} and {lora.alpha:g}; set lora.rank and lora.alpha, which all layers"
                " share, to these."
            )
    return _filled(abstract_adapters, products, weights, lora)


def adapters_of(lora: Lora, config: ModelConfig) -> tuple[nnx.State, LoraConfig]:
    """Any LoRA as our adapters, which have one rank and one alpha and are in all blocks of a kind.

    Layers of a lower rank, and those that the LoRA leaves alone, are filled up with zeros: the
    result is the same (where layers differ in alpha / rank, up to the rounding of float32), and
    training would leave these zeros as they are.

    Args:
      lora: of any kind.
      config: of the model.

    Returns:
      The nnx.LoRAParam and their settings.
    """
    products = _products(lora)
    rank = max(product.rank for product in products.values())
    first = next(iter(products.values()))
    kinds = {re.sub(r"(blocks)\.\d+\.", r"\1.*.", name) for name in products}
    settings = LoraConfig(
        rank=rank, alpha=first.alpha * rank / first.rank, targets=tuple(sorted(kinds))
    )
    weights, _ = targeted(config, settings.targets)
    return _filled(abstract_adapters(config, settings), products, weights, settings), settings


def _products(lora: Lora) -> dict[str, Piece]:
    return {name: whole(lora.pieces(name), rows) for name, (rows, _) in lora.shapes.items()}


def _filled(
    abstract_params: nnx.State,
    products: Mapping[str, Piece],
    weights: Table,
    settings: LoraConfig,
) -> nnx.State:
    """Our adapters with these numbers in them, and zeros where there are none."""
    table = lora_table(weights, settings.rank)

    def values_of(name: str) -> np.ndarray:
        half = DOWN if name.endswith(DOWN) else UP
        product = products.get(name.removesuffix(half))
        values = np.zeros(table[name].shape, np.float32)
        if product is None:
            return values
        if half == DOWN:
            values[: product.rank] = product.down
        else:
            values[:, : product.rank] = product.up
            if product.alpha * settings.rank != settings.alpha * product.rank:
                values *= np.float32(product.scale * settings.rank / settings.alpha)
        return values

    float32 = np.dtype(np.float32)
    given: dict = {n: (x.shape, float32, partial(values_of, n)) for n, x in table.items()}
    tensors = Changed(InMemory({}), given)
    return filled(abstract_params, table, tensors)
