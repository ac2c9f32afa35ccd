"""Linear layers, adapters and 8-bit kernels against numpy in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.models.config import tiny
from step1x_jax.models.eight_bits import EightBitLinear
from step1x_jax.models.layers import modulate
from step1x_jax.models.linear import Linear
from step1x_jax.models.lora import LoraTarget, attach


def linear(spec="bld,df->blf", shape=(8, 6), **options):
    rngs = nnx.Rngs(0)
    return Linear(spec, shape, ("embed", "mlp"), config=tiny(), rngs=rngs, **options)


@pytest.mark.parametrize(("spec", "shape"), [("bld,df->blf", (2, 7, 8)), ("bd,de->be", (2, 8))])
def test_linear_is_einsum_plus_bias(spec, shape):
    rng = np.random.default_rng(0)
    layer = linear(spec)
    layer.bias[...] = jnp.float32(rng.normal(size=6))
    x = rng.normal(size=shape)
    want = np.einsum(spec, x, np.float64(layer.kernel[...])) + np.float64(layer.bias[...])
    np.testing.assert_allclose(layer(jnp.float32(x)), want, atol=1e-5)  # float32 sums of 8


def test_8_bit_layer_with_adapter():
    rng = np.random.default_rng(0)
    layer = linear()
    kernel = rng.integers(-9, 9, layer.kernel.shape)
    kernel[0] = 127  # the largest value of each channel, so integers are quantized exactly
    layer.kernel[...] = jnp.float32(kernel)
    layer.bias[...] = jnp.float32(rng.normal(size=6))
    holder = nnx.Module()
    holder.layer = layer
    attach(holder, [LoraTarget(("layer",), None)], rank=3, alpha=1.5, rngs=nnx.Rngs(1))
    layer.adapter.up[...] = jnp.float32(rng.normal(size=(3, 6)))
    small = EightBitLinear(layer, "int8")
    assert small.kernel.dtype == jnp.int8
    scale = rng.uniform(1, 2, 6)
    small.kernel_scale[...] = jnp.float32(scale)
    x = rng.normal(size=(2, 7, 8))
    down, up, bias = (
        np.float64(a[...]) for a in (layer.adapter.down, layer.adapter.up, layer.bias)
    )
    want = x @ (kernel * scale) + bias + 0.5 * x @ down @ up
    np.testing.assert_allclose(small(jnp.float32(x)), want, atol=1e-3)  # float32, up to 1000


def test_layers_of_one_published_layer_share_an_adapter_matrix():
    """The shared matrix occurs once in the state."""

    class Two(nnx.Module):
        def __init__(self):
            self.a, self.b = linear(), linear()

    for shared, other in (("down", "up"), ("up", "down")):
        model = Two()
        attach(model, [LoraTarget(("a", "b"), shared)], rank=2, alpha=2.0, rngs=nnx.Rngs(1))
        assert getattr(model.a.adapter, shared) is getattr(model.b.adapter, shared)
        assert getattr(model.a.adapter, other) is not getattr(model.b.adapter, other)
        state = nnx.state(model, nnx.LoRAParam)
        assert len(jax.tree.leaves(state)) == 3
        assert np.asarray(model.a.adapter.down).all()
        assert not np.asarray(model.b.adapter.up).any()
        # uniform in +-1 / sqrt(inputs): the inputs of both layers if their outputs are added
        bound = (16 if shared == "up" else 8) ** -0.5
        assert 0.7 * bound < np.abs(model.a.adapter.down).max() <= bound


def test_bias_gradient_is_a_matmul():
    """No reduction runs over all tokens, which is slow on TPUs. The value equals a plain sum."""
    config = dataclasses.replace(tiny(), dtype="bfloat16")
    layer = Linear("bld,df->blf", (8, 6), ("embed", "mlp"), config=config, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)
    x = jnp.zeros((2, 1504, 8), jnp.bfloat16)
    weights = 2.0 ** jnp.arange(6)  # exact in bfloat16

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


def test_default_initialization_preserves_variance():
    layer = linear(shape=(256, 256))
    # 65536 samples: their standard deviation is accurate to 0.3 %
    np.testing.assert_allclose(np.std(layer.kernel[...]), 256**-0.5, rtol=0.02)


def test_modulate_gradients():
    """Compares the gradients of x, shift and scale with those of the plain formula."""
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
