"""Remat policies change what is saved and recomputed, but no gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.choices import REMAT
from step1x_jax.errors import UserError
from step1x_jax.models.config import tiny
from step1x_jax.models.remat import AUTO, OFFLOAD, SAVED, apply_remat, count_saved_widths
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.training.monitoring.flops import jaxpr_flops
from tests.models.test_step1x_edit import inputs

HERE = [policy for policy in REMAT if policy != OFFLOAD]


def gradient_of(policy, implementation="auto"):
    """Returns the gradient function of the parameters, and random parameters."""
    config = dataclasses.replace(tiny(), remat=policy, attention=implementation)
    graph, params = nnx.split(Step1XEdit(config, rngs=nnx.Rngs(0)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]

    def loss(params):
        return jnp.mean(nnx.merge(graph, params)(*inputs(config)) ** 2)

    return jax.grad(loss), jax.tree.unflatten(tree, leaves)


def gradients(policy):
    function, params = gradient_of(policy)
    return jax.tree.leaves(jax.jit(function)(params))


@pytest.fixture(scope="module")
def stored():
    return gradients("none")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [p for p in HERE if p != "none"])
def test_gradients_are_equal(policy, stored):
    """Up to float32 rounding: the compiler may fuse recomputed values differently."""
    for ours, theirs in zip(gradients(policy), stored, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(np.abs(theirs).max(), 1e-3))


@pytest.mark.parametrize(
    "implementation", ["xla", pytest.param("pallas_tpu", marks=pytest.mark.slow)]
)
def test_saved_values_are_not_recomputed(implementation):
    """Counts the matmuls of the traced gradient, including those inside the attention kernel."""

    def work(policy):
        function, params = gradient_of(policy, implementation)
        return jaxpr_flops(jax.make_jaxpr(function)(params).jaxpr)

    order = ["full", "attention", "attention_qkv", "attention_qkv_mlp"]
    amounts = [work(policy) for policy in order]
    assert amounts == sorted(amounts, reverse=True)
    assert len(set(amounts)) == len(order)
    assert work("attention_qkv_mlp") < work("attention_mlp") < work("attention")
    assert work(AUTO) == work("full")  # unresolved, it is the same


def test_saved_widths():
    """A block that saves all: input, attention, gated, three for q, k and v, four for the MLP."""
    assert count_saved_widths("full", double=False) == 1
    assert count_saved_widths("attention_qkv_mlp", double=False) == 1 + 1 + 1 + 3 + 4
    assert count_saved_widths("attention_qkv_mlp", double=True) == 1 + 1 + 2 + 3 + 4
    order = [count_saved_widths(policy, double=True) for policy in SAVED]
    assert order == sorted(order)


def test_offload_is_refused_on_cpus():
    with pytest.raises(UserError, match="offload' needs a TPU or GPU"):
        apply_remat(lambda x, y: (x, y), OFFLOAD)
