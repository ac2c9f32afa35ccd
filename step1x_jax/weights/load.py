"""Opened weights onto devices, parameter by parameter: no host holds more than its devices do."""

import dataclasses

from etils import epath
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder, abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model
from step1x_jax.parallel.host_memory import host_shardings
from step1x_jax.parallel.rules import shardings
from step1x_jax.weights.filling import Keep, as_stored, at, filled, kept
from step1x_jax.weights.layouts.official import autoencoder_table, model_table
from step1x_jax.weights.open import Weights, check_is_model, open_weights
from step1x_jax.weights.places import places_of
from step1x_jax.weights.quantizing import abstract_quantized, quantizing
from step1x_jax.weights.run.reader import RunTensors


def load_model(
    weights: epath.PathLike | Weights,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    *,
    quantize: str | None = None,
    on_host: bool = False,
) -> Step1XEdit:
    """Connector and DiT, each parameter in the dtype in which it is stored.

    Args:
      weights: opened ones, or the path of what `open_weights` understands.
      mesh: on which it lies as parallel/rules.py says; None: on the default device.
      dtype: of the arithmetic; None: as the run had it, or bfloat16 if all tensors of a file are,
        else float32.
      quantize: stores the kernels of the blocks in 8 bits, "int8" or "fp8", see models/lora.py.
      on_host: in the host's memory instead, from which `on_device` copies it.

    Raises:
      UserError: see `open_weights`; they are no model, or have numbers that are not finite.
    """
    weights = weights if isinstance(weights, Weights) else open_weights(weights)
    check_is_model(weights)
    assert isinstance(weights.config, ModelConfig)
    config = dataclasses.replace(weights.config, dtype=dtype or weights.config.dtype)
    graph, params = abstract_model(config)
    params = as_stored(params, model_table(config), weights.tensors.dtypes)
    if quantize is None:
        return nnx.merge(
            graph, load_parameters(weights, at(params, _places(params, mesh, on_host)))
        )
    graph, wanted = abstract_quantized(config, quantize)
    keep = quantizing(config, quantize, _places(wanted, mesh, on_host))
    params = load_parameters(weights, at(params, _places(params, mesh, on_host)), keep)
    return nnx.merge(graph, params)


def _places(params: nnx.State, mesh: Mesh | None, on_host: bool) -> nnx.State | None:
    if on_host:
        return host_shardings(params)
    return None if mesh is None else shardings(params, mesh)


def load_parameters(weights: Weights, wanted: nnx.State, keep: Keep | None = None) -> nnx.State:
    """The parameters of opened weights, or what is kept of them.

    Args:
      weights: of a model.
      wanted: shapes, which are theirs, dtypes and shardings; what has none goes onto the default
        device.
      keep: is given each parameter (of files before the next one is read); None keeps it as it is.

    Raises:
      UserError: they cannot be read, or have numbers that are not finite.
    """
    assert isinstance(weights.config, ModelConfig)
    tensors = weights.tensors
    if isinstance(tensors, RunTensors):  # they are stored as our parameters: Orbax gives them
        params = tensors.run.restore(wanted)
        return params if keep is None else kept(params, keep)
    return filled(wanted, model_table(weights.config), tensors, keep)


def load_autoencoder(path: epath.PathLike) -> Autoencoder:
    """The autoencoder in float32.

    Args:
      path: its file or folder (official, or diffusers' AutoencoderKL), or that of an editor with
        all its parts.

    Raises:
      UserError: there is none, it is unreadable, does not fit its sizes, or has numbers that are
        not finite.
    """
    weights = open_autoencoder(path, exact=True)
    config = weights.config
    assert isinstance(config, AutoencoderConfig)
    graph, params = abstract_autoencoder(config)
    return nnx.merge(graph, filled(params, autoencoder_table(params), weights.tensors))


def open_autoencoder(path: epath.PathLike, *, exact: bool = False) -> Weights:
    """As `open_weights`, of the autoencoder.

    Args:
      path: see `load_autoencoder`.
      exact: see `open_weights`.

    Raises:
      UserError: there is none.
    """
    path = epath.Path(path)
    beside = places_of(path).autoencoder if path.is_dir() else None
    weights = open_weights(beside if beside is not None and beside.exists() else path, exact=exact)
    if weights.kind.holds != "autoencoder":
        raise UserError(
            f"{path} is {weights.kind.title}, no autoencoder; give vae.safetensors, or diffusers'"
            " vae/, as --vae."
        )
    return weights
