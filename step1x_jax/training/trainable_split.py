"""Split the model into the state that a run trains and the state that stays frozen."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.models import step1x_edit
from step1x_jax.models.layers import abstract
from step1x_jax.parallel.rules import shardings
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.step.randomness import rng_stream
from step1x_jax.weights.filling import Transform, set_shardings
from step1x_jax.weights.lora.adapters import add_adapters
from step1x_jax.weights.quantize import make_quantizer


@dataclasses.dataclass(frozen=True)
class TrainableSplit:
    """A model as `nnx.merge(graph, trained, frozen)`.

    Attributes:
      graph: the model's structure.
      trained: all parameters or, with adapters, only these (nnx.LoRAParam).
      frozen: empty or, with adapters, the base. It gets no gradient and is not in checkpoints.
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


def init_trained(config: TrainConfig) -> nnx.State:
    """Initialize the trained part at random. Under jit the frozen part is never computed."""
    rngs = nnx.Rngs(rng_stream(config.training.seed, "init"))
    return _split(*nnx.split(_build(config, rngs)), config).trained


def abstract_split(config: TrainConfig) -> TrainableSplit:
    """Return the split with parameters as ShapeDtypeStructs with logical axes."""
    return _split(*abstract(lambda rngs: _build(config, rngs)), config)


def with_shardings(tree: Any, mesh: Mesh) -> Any:
    """Add the shardings of parallel/rules.py to an abstract tree."""
    return set_shardings(tree, shardings(tree, mesh))


def shardings_of(abstract: Any) -> Any:
    """Return the shardings of a tree of ShapeDtypeStructs."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def abstract_frozen(config: TrainConfig, mesh: Mesh) -> nnx.State:
    """Return the frozen part as ShapeDtypeStructs with shardings; empty without adapters."""
    return with_shardings(abstract_split(config).frozen, mesh)


def abstract_base(config: TrainConfig, mesh: Mesh) -> nnx.State:
    """Return the base as loaded, before quantization, as ShapeDtypeStructs with shardings."""
    return with_shardings(step1x_edit.abstract_model(config.model)[1], mesh)


def make_freezer(config: TrainConfig, mesh: Mesh) -> Transform:
    """Make the function that turns each loaded base parameter into the frozen part.

    With lora.quantize each kernel is quantized to 8 bits as soon as it is loaded, and its original
    is freed before the next one is read. The full-precision base is never in memory as a whole.

    Args:
      config: the run's config.
      mesh: the mesh of the base and of the frozen part.

    Returns:
      A function for `load_parameters`. It takes ownership of each parameter's buffers.
    """
    if config.lora.quantize == "none":
        return lambda path, parameter: {path: parameter}
    places = shardings_of(abstract_frozen(config, mesh))
    return make_quantizer(config.model, config.lora.quantize, places)
