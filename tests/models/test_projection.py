"""Projection against plain einsum; gradients of what is added against plain sums."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.models.config import tiny
from step1x_jax.models.layers import modulate
from step1x_jax.models.projection import Projection, qkv_projection

SPECS = [  # spec, sizes by letter, where the bias goes
    ("bld,df->blf", (8, 6), (1, 1, 6)),
    ("blhk,hkd->bld", (3, 4, 5), (1, 1, 5)),
    ("bld,dhk->blhk", (8, 2, 4), (1, 1, 2, 4)),
    ("bld,cdhk->cblhk", (3, 8, 2, 4), (3, 1, 1, 2, 4)),
    ("bld,dkh->bhlk", (8, 4, 2), (1, 2, 1, 4)),  # kernel and output in different orders
]


@pytest.mark.parametrize(("spec", "shape", "bias"), SPECS)
def test_projection_is_its_einsum_plus_bias(spec, shape, bias):
    rng = np.random.default_rng(0)
    layer = Projection(spec, shape, [None] * len(shape), config=tiny(), rngs=nnx.Rngs(0))
    assert layer.bias.shape == tuple(n for n in bias if n > 1)  # its axes in the output's order
    values = rng.normal(size=bias).astype(np.float32)
    layer.bias[...] = jnp.asarray(values.reshape(layer.bias.shape))
    inputs, kernel = spec.split("->")[0].split(",")
    size = dict(zip(kernel, shape, strict=True)) | {"b": 2, "l": 7}
    x = rng.normal(size=[size[a] for a in inputs])
    want = np.einsum(spec, x, np.float64(layer.kernel[...])) + values
    np.testing.assert_allclose(layer(jnp.float32(x)), want, atol=1e-5)  # float32 sums of 8 to 12


def test_queries_keys_and_values_are_one_einsum():
    """With an adapter, and a kernel in 8 bits, too."""
    rng = np.random.default_rng(0)
    layer = qkv_projection(8, 2, 1.0, config=tiny(), rngs=nnx.Rngs(0))
    kernel = rng.integers(-9, 9, layer.kernel.shape)
    down, up = rng.normal(size=(8, 3)), rng.normal(size=(3, 3, 2, 4))  # rank 3
    scale = rng.uniform(1, 2, layer.bias.shape)
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    layer.kernel_scale = nnx.Param(jnp.float32(scale))
    layer.lora_down, layer.lora_up = (nnx.LoRAParam(jnp.float32(a)) for a in (down, up))
    layer.lora_scale = 0.5
    x = rng.normal(size=(2, 7, 8))
    want = np.einsum("bld,cdhk->cblhk", x, kernel * scale[:, None])
    want += np.asarray(layer.bias)[:, None, None]
    want += 0.5 * np.einsum("bld,dr,rchk->cblhk", x, down, up)
    for ours, theirs in zip(layer(jnp.float32(x)), want, strict=True):
        np.testing.assert_allclose(
            ours, theirs.reshape(2, 7, 8), atol=1e-4
        )  # float32 sums of 8, up to 100


@pytest.mark.parametrize("spec", ["bld,df->blf", "bld,dhk->blhk"])
def test_the_gradient_of_a_bias_is_a_matmul(spec):
    """Nothing sums over all tokens by itself: TPUs do that slowly. The number is a plain sum's."""
    config = dataclasses.replace(tiny(), dtype="bfloat16")
    shape = (8, 2, 4) if "h" in spec else (8, 6)
    layer = Projection(spec, shape, [None] * len(shape), config=config, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)
    x = jnp.zeros((2, 1504, 8), jnp.bfloat16)
    weights = 2.0 ** jnp.arange(math.prod(shape[1:])).reshape(shape[1:])  # exact in bfloat16

    def loss(params):
        y = nnx.merge(graph, params)(x).astype(jnp.float32)
        return jnp.vdot(y, jnp.broadcast_to(weights, y.shape))

    gradient = jax.grad(loss)(params)
    np.testing.assert_array_equal(gradient["bias"][...], 3008 * weights)
    sums = [
        equation
        for equation in jax.make_jaxpr(jax.grad(loss))(params).eqns
        if equation.primitive.name == "reduce_sum" and equation.invars[0].aval.size >= 3008
    ]
    assert not sums


def test_random_kernels_keep_the_variance():
    layer = Projection("blhk,hkd->bld", (4, 64, 256), [None] * 3, config=tiny(), rngs=nnx.Rngs(0))
    # 65536 draws: their standard deviation is known to 0.3 %
    np.testing.assert_allclose(np.std(layer.kernel[...]), 256**-0.5, rtol=0.02)


def test_modulate_has_the_gradients_of_its_formula():
    """Of each example's own shift and scale, and of x."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, dy = (jax.random.normal(key, (3, 5, 8)) for key in keys[:2])
    shift, scale = (jax.random.normal(key, (3, 8)) for key in keys[2:])

    def formula(x, shift, scale):
        normed = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return (1 + scale[:, None]) * normed + shift[:, None]

    got, vjp = jax.vjp(modulate, x, shift, scale)
    want, wanted = jax.vjp(formula, x, shift, scale)
    for ours, theirs in zip((got, *vjp(dy)), (want, *wanted(dy)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # float32 sums of 5 and 8
