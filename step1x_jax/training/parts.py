"""The model in two parts: what a run trains, and what stays as it is."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.models import step1x_edit
from step1x_jax.models.layers import abstract
from step1x_jax.parallel.rules import shardings
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.step.randomness import stream
from step1x_jax.weights.filling import Keep, at
from step1x_jax.weights.lora.adapters import add_adapters
from step1x_jax.weights.quantizing import quantizing


@dataclasses.dataclass(frozen=True)
class TrainableSplit:
    """`nnx.merge(graph, trained, frozen)` is the model.

    trained: all parameters or, with adapters, these (nnx.LoRAParam).
    frozen: the rest: empty, or the base. The gradient is not taken by it, no checkpoint has it.
    """

    graph: nnx.GraphDef
    trained: nnx.State
    frozen: nnx.State


def _split(graph: nnx.GraphDef, state: nnx.State, config: TrainConfig) -> TrainableSplit:
    kind: Any = nnx.LoRAParam if config.lora.rank else nnx.Param
    trained, frozen = nnx.split_state(state, kind, ...)
    return TrainableSplit(graph, trained, frozen)


def _build(config: TrainConfig, rngs: nnx.Rngs) -> nnx.Module:
    model = step1x_edit.Step1XEdit(config.model, rngs=rngs)
    add_adapters(model, config.model, config.lora, rngs)
    return model


def random_trained(config: TrainConfig) -> nnx.State:
    """The trained part as a run begins with it. (Under jit the frozen one is never made.)"""
    rngs = nnx.Rngs(stream(config.training.seed, "init"))
    return _split(*nnx.split(_build(config, rngs)), config).trained


def abstract_split(config: TrainConfig) -> TrainableSplit:
    """Structure, and parameters as ShapeDtypeStructs with their logical axes."""
    return _split(*abstract(lambda rngs: _build(config, rngs)), config)


def placed(tree: Any, mesh: Mesh) -> Any:
    """An abstract tree with the shardings of the table in parallel/rules.py."""
    return at(tree, shardings(tree, mesh))


def shardings_of(abstract: Any) -> Any:
    """A tree's shardings, from its ShapeDtypeStructs."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def abstract_frozen(config: TrainConfig, mesh: Mesh) -> nnx.State:
    """The frozen part as ShapeDtypeStructs with their shardings; empty without adapters."""
    return placed(abstract_split(config).frozen, mesh)


def abstract_base(config: TrainConfig, mesh: Mesh) -> nnx.State:
    """What the frozen part is made of: the model's parameters, before any is stored in 8 bits."""
    return placed(step1x_edit.abstract_model(config.model)[1], mesh)


def freezing(config: TrainConfig, mesh: Mesh) -> Keep:
    """Makes the frozen part of the base's parameters, of each as soon as it is there.

    The base as it was is never in memory: a kernel that is stored in 8 bits is given up before the
    next one is read.

    Args:
      config: of the run.
      mesh: on which the base lies, and the frozen part will.

    Returns:
      A function for `load_weights`; it takes over a parameter's buffers.
    """
    if config.lora.quantize == "none":
        return lambda path, parameter: {path: parameter}
    places = shardings_of(abstract_frozen(config, mesh))
    return quantizing(config.model, config.lora.quantize, places)
