"""Whole models to and from files, and a run's parameters, as tests want them."""

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
    """The model of a config, whose dtypes count, at the places of a tree of shardings."""
    graph, wanted = abstract_model(config)
    return nnx.merge(graph, parameters_as(path, config, wanted, loras=loras, places=places))


def parameters_as(path, config, wanted=None, *, places=None, **options):
    """The parameters in the dtypes of a config, or as an abstract tree wants them."""
    wanted = abstract_model(config)[1] if wanted is None else wanted
    if places is not None:
        wanted = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), wanted, places
        )
    exact = any(x.dtype == jnp.float32 for x in jax.tree.leaves(wanted))
    weights = open_weights(path, sizes=config, exact=exact, **options)
    return load_parameters(weights, wanted)


def run_parameters(path, wanted=None, **options):
    """The parameters of a run (adapters merged), and what was opened."""
    weights = open_weights(path, **options)
    return parameters_as(path, weights.config, wanted, **options), weights
