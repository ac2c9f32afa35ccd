"""Loads opened weights onto devices, one parameter after another."""

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
from step1x_jax.weights.component_paths import locate_components
from step1x_jax.weights.filling import (
    Transform,
    fill_params,
    map_params,
    set_shardings,
    with_stored_dtypes,
)
from step1x_jax.weights.layouts.official import autoencoder_table, model_table
from step1x_jax.weights.open import Weights, check_is_model, open_weights
from step1x_jax.weights.quantize import abstract_quantized_model, make_quantizer
from step1x_jax.weights.run.reader import RunTensors


def load_model(
    weights: epath.PathLike | Weights,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    *,
    quantize: str | None = None,
    on_host: bool = False,
) -> Step1XEdit:
    """Load connector and DiT, each parameter in the dtype in which it is stored.

    Args:
      weights: opened weights, or a path in any format that `open_weights` accepts.
      mesh: the parameters are sharded over it as parallel/rules.py says; None: the default device.
      dtype: compute dtype; None: that of the run, or for files bfloat16 if all tensors are
        bfloat16, else float32.
      quantize: stores the kernels of the blocks in 8 bits, "int8" or "fp8", see models/lora.py.
      on_host: keeps the parameters in the host's memory, from which `on_device` copies them.

    Raises:
      UserError: see `open_weights`; they are not a model, or have numbers that are not finite.
    """
    weights = weights if isinstance(weights, Weights) else open_weights(weights)
    check_is_model(weights)
    assert isinstance(weights.config, ModelConfig)
    config = dataclasses.replace(weights.config, dtype=dtype or weights.config.dtype)
    graph, params = abstract_model(config)
    params = with_stored_dtypes(params, model_table(config), weights.tensors.dtypes)
    if quantize is None:
        return nnx.merge(
            graph,
            load_parameters(weights, set_shardings(params, _shardings(params, mesh, on_host))),
        )
    graph, wanted = abstract_quantized_model(config, quantize)
    transform = make_quantizer(config, quantize, _shardings(wanted, mesh, on_host))
    params = load_parameters(
        weights, set_shardings(params, _shardings(params, mesh, on_host)), transform
    )
    return nnx.merge(graph, params)


def _shardings(params: nnx.State, mesh: Mesh | None, on_host: bool) -> nnx.State | None:
    if on_host:
        return host_shardings(params)
    return None if mesh is None else shardings(params, mesh)


def load_parameters(
    weights: Weights, wanted: nnx.State, transform: Transform | None = None
) -> nnx.State:
    """Load the parameters of an opened model.

    Args:
      weights: of a model.
      wanted: abstract parameters: the model's shapes; dtypes; shardings (none: the default device).
      transform: is called with each parameter (for files before the next one is read); None: no
        change.

    Returns:
      The parameters, or what `transform` returned.

    Raises:
      UserError: they cannot be read, or have numbers that are not finite.
    """
    assert isinstance(weights.config, ModelConfig)
    tensors = weights.tensors
    if isinstance(tensors, RunTensors):  # stored as our parameters: Orbax loads them
        params = tensors.run.restore(wanted)
        return params if transform is None else map_params(params, transform)
    return fill_params(wanted, model_table(weights.config), tensors, transform)


def load_autoencoder(path: epath.PathLike) -> Autoencoder:
    """Load the autoencoder in float32.

    Args:
      path: its file or folder (official, or diffusers' AutoencoderKL), or an editor's folder with
        all components.

    Raises:
      UserError: it is missing, unreadable, does not fit its sizes, or has numbers that are not
        finite.
    """
    weights = open_autoencoder(path, exact=True)
    config = weights.config
    assert isinstance(config, AutoencoderConfig)
    graph, params = abstract_autoencoder(config)
    return nnx.merge(graph, fill_params(params, autoencoder_table(params), weights.tensors))


def open_autoencoder(path: epath.PathLike, *, exact: bool = False) -> Weights:
    """Open the autoencoder as `open_weights` does.

    Args:
      path: see `load_autoencoder`.
      exact: see `open_weights`.

    Raises:
      UserError: there is none.
    """
    path = epath.Path(path)
    found = locate_components(path).autoencoder if path.is_dir() else None
    weights = open_weights(found if found is not None and found.exists() else path, exact=exact)
    if weights.format.component != "autoencoder":
        raise UserError(
            f"{path} is {weights.format.title}, not an autoencoder; give vae.safetensors, or"
            " diffusers' vae/, as --vae."
        )
    return weights
