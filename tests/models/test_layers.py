"""Properties of layers.py that the golden vectors of tests/test_golden.py do not cover."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.models.autoencoder import Autoencoder, abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig, tiny
from step1x_jax.models.layers import compute_modulation, layer_norm, make_modulation
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model
from step1x_jax.models.transformer import SelfAttention
from step1x_jax.overrides import override
from tests.models.test_step1x_edit import inputs


def test_initial_gates_and_query_biases():
    config = override(tiny(), {"gate_init": 0.5})
    mod = make_modulation(6, 4, gates=(2, 5), config=config, rngs=nnx.Rngs(0))
    vectors = np.asarray(compute_modulation(mod, jnp.ones((3, 4))))
    assert vectors.shape == (6, 3, 4)
    assert vectors[:, 0, 0].tolist() == [0, 0, 0.5, 0, 0, 0.5]
    config = override(config, {"qk_bias_init": 1.0})
    attn = SelfAttention(config, rngs=nnx.Rngs(0))
    assert [float(x.bias[...].max()) for x in (attn.q, attn.k, attn.v)] == [1, 1, 0]


def test_layer_norm_has_an_eps_of_1e_6():
    """With values of 1e-3, eps is as large as the variance; golden values are larger."""
    x = 1e-3 * np.random.default_rng(0).normal(size=(2, 3, 8))
    centred = x - x.mean(-1, keepdims=True)
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layer_norm(jnp.float32(x)), want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "count"), [("none", 0), ("full", 3)])
def test_remat_wraps_each_of_the_three_stacks(remat, count):
    """Remat changes memory but no number, so the traced program is inspected."""
    config = dataclasses.replace(tiny(), remat=remat)
    graph, shapes = abstract_model(config)
    program = jax.make_jaxpr(lambda params, *args: nnx.merge(graph, params)(*args))(
        shapes, *inputs(config)
    )
    names = [equation.primitive.name for equation in _equations(program)]
    assert sum(name.startswith("remat") for name in names) == count


def _equations(program):
    """Yields the equations of a jaxpr and of the scans in it."""
    for equation in program.eqns:
        yield equation
        if equation.primitive.name == "scan":
            yield from _equations(equation.params["jaxpr"])


SMALL = AutoencoderConfig(ch=8, ch_mult=(1, 2), norm_groups=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("abstract", "module", "config"),
    [(abstract_model, Step1XEdit, tiny()), (abstract_autoencoder, Autoencoder, SMALL)],
)
def test_abstract_modules_match_initialized_ones(abstract, module, config):
    graph, shapes = abstract(config)
    real_graph, params = nnx.split(module(config, rngs=nnx.Rngs(0)))
    assert graph == real_graph
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )


def test_callers_of_abstract_autoencoder_are_independent():
    """The result is cached: changing it, or the config, must not affect other callers."""
    config = dataclasses.replace(SMALL)
    _, shapes = abstract_autoencoder(config)
    del shapes["decoder"]
    config = override(config, {"ch": 16})
    _, again = abstract_autoencoder(SMALL)
    assert "decoder" in again
    assert again["encoder"]["conv_in"]["kernel"].shape == (3, 3, 3, 8)
    _, other = abstract_autoencoder(config)
    assert other["encoder"]["conv_in"]["kernel"].shape == (3, 3, 3, 16)
