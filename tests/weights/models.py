"""Helpers that load and save whole models and a run's parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.weights.layouts.official import flatten_params, model_table
from step1x_jax.weights.load import load_parameters
from step1x_jax.weights.official_tensors import OfficialTensors
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.readers import Cast
from step1x_jax.weights.save import write_file


def published(config, state):
    """A model's parameters, or a tree like them, as official tensors."""
    return OfficialTensors(model_table(config), flatten_params(state))


def save_model(path, model, *, dtype=None, fields=None):
    """Writes an official file, and a config.json where one is needed."""
    tensors = published(model.config, nnx.state(model))
    if dtype is not None:
        tensors = Cast(tensors, np.dtype(jnp.dtype(dtype)))
    write_file(path, tensors, model.config, fields)


def load_as(path, config, loras=(), places=None):
    """Loads a model with the dtypes of a config and the given shardings."""
    graph, wanted = abstract_model(config)
    return nnx.merge(graph, parameters_as(path, config, wanted, loras=loras, places=places))


def parameters_as(path, config, wanted=None, *, places=None, **options):
    """Loads the parameters with the dtypes of a config, or as an abstract tree specifies."""
    wanted = abstract_model(config)[1] if wanted is None else wanted
    if places is not None:
        wanted = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), wanted, places
        )
    exact = any(x.dtype == jnp.float32 for x in jax.tree.leaves(wanted))
    weights = open_weights(path, sizes=config, exact=exact, **options)
    return load_parameters(weights, wanted)


def run_parameters(path, wanted=None, **options):
    """Loads a run's parameters (adapters merged); returns them and the opened weights."""
    weights = open_weights(path, **options)
    return parameters_as(path, weights.config, wanted, **options), weights
