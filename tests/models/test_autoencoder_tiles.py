"""The autoencoder in strips against the autoencoder on the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.conditioning.images import to_array
from step1x_jax.kernels.attention import attention
from step1x_jax.models import autoencoder as module
from step1x_jax.models.autoencoder import Autoencoder, ResnetBlock, attend, group_norm
from step1x_jax.models.autoencoder_tiles import decode_tiled, encode_tiled, run_in_strips
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.weights.load import load_autoencoder

_encode, _decode = nnx.jit(Autoencoder.encode), nnx.jit(Autoencoder.decode)
_encode_tiled = nnx.jit(encode_tiled, static_argnames="rows")
_decode_tiled = nnx.jit(decode_tiled, static_argnames="rows")
# float32 rounding of values of about 1 through 20 to 40 layers; measured: up to 4e-6. A halo that
# is one row too small, or statistics per strip, would give errors of 1e-2 and more.
ATOL = 3e-5


def small(ch_mult=(1, 2, 3), blocks=1, seed=0):
    """Returns a random autoencoder whose norms have random scale and bias."""
    config = AutoencoderConfig(
        ch=8, ch_mult=ch_mult, num_res_blocks=blocks, z_channels=4, norm_groups=4
    )
    model = Autoencoder(config, rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, nnx.GroupNorm):
            norm.scale[...] = jnp.float32(random.uniform(0.5, 1.5, norm.scale.shape))
            norm.bias[...] = jnp.float32(random.normal(size=norm.bias.shape) / 4)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ch_mult", "blocks", "shape", "rows"),
    [
        ((1, 2, 3), 1, (1, 136, 16), 16),  # tall; the last strip is half as high
        ((1, 2), 2, (2, 52, 20), 2),  # strips of one latent row, the minimum; two images
        ((2, 1), 1, (1, 40, 120), 8),  # wide
    ],
)
def test_strips_match_the_whole_image(ch_mult, blocks, shape, rows):
    model = small(ch_mult, blocks)
    random = np.random.default_rng(1)
    images = jnp.float32(random.uniform(-1, 1, (*shape, 3)))
    images = images + jnp.linspace(-1, 1, shape[1])[:, None, None]  # strips with different means
    latents = _encode(model, images)
    got = _encode_tiled(model, images, rows=rows)
    assert (got.shape, got.dtype) == (latents.shape, jnp.float32)
    np.testing.assert_allclose(got, latents, atol=ATOL)

    latents = jnp.float32(random.normal(size=latents.shape))
    want, got = _decode(model, latents), _decode_tiled(model, latents, rows=rows)
    assert (got.shape, got.dtype) == (want.shape, jnp.float32)
    np.testing.assert_allclose(got, want, atol=ATOL)


@pytest.mark.quickstart
def test_photograph_with_quickstart_weights():
    from step1x_jax.curation.embedded.crops import photograph  # needs the extra

    model = load_autoencoder("step1x_jax/assets/quickstart/autoencoder")
    picture = Image.fromarray(photograph("chelsea")).resize((192, 264))
    images = jnp.asarray(to_array(picture))[None]
    latents = _encode(model, images)
    np.testing.assert_allclose(_encode_tiled(model, images, rows=32), latents, atol=ATOL)
    np.testing.assert_allclose(
        _decode_tiled(model, latents, rows=32), _decode(model, latents), atol=ATOL
    )


def test_statistics_with_a_large_mean():
    """Mean 300, deviation about 1: E[x^2] - E[x]^2 in float32 is wrong by several percent."""
    norm = group_norm(8, 2, nnx.Rngs(0))
    deviations = np.linspace(0.5, 2, 50)[:, None, None]
    x = 300 + np.random.default_rng(0).normal(size=(2, 50, 6, 8)) * deviations
    x = np.float32(x)
    grouped = np.float64(x).reshape(2, 50, 6, 2, 4)
    axes = {"axis": (1, 2, 4), "keepdims": True}
    want = (grouped - grouped.mean(**axes)) / np.sqrt(grouped.var(**axes) + 1e-6)
    got = run_in_strips([norm], jnp.asarray(x), 12)
    # the mean has a rounding error of 1.5e-5, sums slightly more
    np.testing.assert_allclose(got, want.reshape(x.shape), atol=2e-4)


def test_blocks_get_windows_with_minimal_halo(monkeypatch):
    """A window has 8 rows plus a halo: one row per 3x3 convolution (at most 5), rounded to even."""
    model, shapes, original = small(), set(), ResnetBlock.__call__

    def spy(self, x):
        shapes.add(x.shape[1:3])
        return original(self, x)

    monkeypatch.setattr(ResnetBlock, "__call__", spy)
    mid = (80, 8)
    jax.eval_shape(lambda x: encode_tiled(model, x, 8), jnp.zeros((1, 320, 32, 3)))
    assert shapes == {(8 + 2 * 4, 32), (8 + 2 * 4, 16), (8 + 2 * 2, 8), mid}
    shapes.clear()
    jax.eval_shape(lambda x: decode_tiled(model, x, 8), jnp.zeros((1, 80, 8, 4)))
    assert shapes == {mid, (8 + 2 * 4, 8), (8 + 2 * 6, 16), (8 + 2 * 6, 32)}


def test_memory_of_a_stage_is_that_of_a_strip():
    level = small().encoder.down[0]

    def temporaries(height, rows):
        x = jax.ShapeDtypeStruct((1, height, 64, 8), jnp.float32)
        program = jax.jit(lambda x: run_in_strips([level], x, rows) if rows else level(x))
        return program.lower(x).compile().memory_analysis().temp_size_in_bytes

    small_strips, large_strips = temporaries(512, 16), temporaries(512, 32)
    assert temporaries(1024, 16) < 1.05 * small_strips  # statistics of more strips
    assert 1.3 * small_strips < large_strips
    assert 4 * small_strips < temporaries(512, None)


def test_attention_in_blocks_of_queries(monkeypatch):
    monkeypatch.setattr(module, "QUERIES", 7)
    monkeypatch.setenv("STEP1X_ATTENTION", "pallas_tpu")  # must be ignored: keys would not fit VMEM
    random = np.random.default_rng(0)
    q, k, v = (jnp.float32(random.normal(size=(2, 24, 16))) for _ in range(3))
    want = attention(q, k, v, head_dim=16, implementation="xla")
    np.testing.assert_allclose(attend(q, k, v), want, atol=1e-6)
    program = str(jax.make_jaxpr(attend)(q, k, v))
    assert "pallas_call" not in program
    assert "24,24" not in program  # never the logits of all queries


@pytest.mark.parametrize("rows", [0, 7])
def test_odd_and_empty_strips_are_refused(rows):
    with pytest.raises(ValueError, match=f"rows={rows}"):
        encode_tiled(small(), jnp.zeros((1, 64, 16, 3)), rows)
