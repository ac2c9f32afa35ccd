"""The autoencoder for large images, in strips: the same result with a fraction of the memory.

A stage of the network is the blocks of one resolution and the adjacent change of resolution. It is
computed in strips of full rows; only the maps between stages are stored completely. For each strip
a window of the input is read: the strip's rows, plus the rows above and below that its 3x3
convolutions reach (the halo). The convolutions zero-pad a window as they pad an image. Where a
window ends inside the image, each convolution makes one more row incorrect, but all of these rows
are outside the strip. Where a window ends at the image border, the padding is correct.

A GroupNorm needs mean and variance of its whole input, which depend on the GroupNorms before it.
Therefore a stage with N GroupNorms computes all strips N + 1 times. Each pass uses the statistics
measured in the previous pass, so each pass makes the statistics of one more norm exact. This is
several times the work, but no map inside a stage is ever stored completely.

Modules, code and parameters are those of `autoencoder`; only a stage's GroupNorms are replaced, in
a copy of its structure.

Legend: B batch, H W rows and columns of a map, h w latent positions, C channels, G groups.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.models.autoencoder import Autoencoder, Upsample

ROWS = 64  # rows of a strip: 0.13 GiB per map at 2048 columns and 256 channels
# Up to this many pixels (H * W) an image is computed at once: 3 GiB, and a fraction of the time.
LARGEST_WHOLE_PIXELS = 3 * 2**19


def encode_tiled(autoencoder: Autoencoder, images: jax.Array, rows: int = ROWS) -> jax.Array:
    """Compute `Autoencoder.encode` in strips; call it under jit.

    Args:
      autoencoder: its modules and parameters are used as they are.
      images: (B, H, W, 3) float32 in [-1, 1], H and W multiples of 8; processed one at a time.
      rows: height of a strip at a stage's higher resolution, an even number.

    Returns:
      (B, H/8, W/8, 16) float32, equal to `Autoencoder.encode` up to rounding.
    """
    encoder = autoencoder.encoder

    def encode(image: jax.Array) -> jax.Array:
        x = image[None]
        for i, level in enumerate(encoder.down):
            x = run_in_strips([encoder.conv_in, level] if i == 0 else [level], x, rows)
        mean, _ = encoder.end(x)
        return autoencoder.scale_latents(mean[0])

    return jax.lax.map(encode, images)


def decode_tiled(autoencoder: Autoencoder, latents: jax.Array, rows: int = ROWS) -> jax.Array:
    """Compute `Autoencoder.decode` in strips; call it under jit.

    Args:
      autoencoder: its modules and parameters are used as they are.
      latents: (B, h, w, 16); processed one at a time.
      rows: height of a strip at a stage's higher resolution, an even number.

    Returns:
      (B, 8h, 8w, 3) float32, equal to `Autoencoder.decode` up to rounding.
    """
    decoder = autoencoder.decoder

    def decode(latents: jax.Array) -> jax.Array:
        x = decoder.begin(autoencoder.unscale_latents(latents[None]))
        before: list[Any] = []  # the upsampling of the previous resolution
        for level in reversed(decoder.up):
            after = [decoder.norm_out, nnx.silu, decoder.conv_out] if level.upsample is None else []
            x = run_in_strips([*before, *level.block, *after], x, rows)
            before = [level.upsample]
        return x[0]

    return jax.lax.map(decode, latents)


def run_in_strips(layers: Sequence[Any], x: jax.Array, rows: int) -> jax.Array:
    """Apply the layers of one stage in strips.

    Args:
      layers: modules and functions of the autoencoder. The last may halve the resolution, or the
        first may double it.
      x: (B, H, W, C).
      rows: height of a strip at the stage's higher resolution, an even number.

    Returns:
      (B, H', W', C').

    Raises:
      ValueError: `rows` is odd or less than 2.
    """
    if rows < 2 or rows % 2:
        raise ValueError(f"rows={rows}: expected an even number of at least 2.")
    stage = nnx.Sequential(*layers)
    modules = [module for _, module in nnx.iter_modules(stage)]
    convolutions = sum(isinstance(m, nnx.Conv) and m.kernel_size == (3, 3) for m in modules)
    norms = [m for m in modules if isinstance(m, nnx.GroupNorm)]

    # From here on rows are counted in the input. They are even if the stage halves the resolution.
    finer = 2 if any(isinstance(m, Upsample) for m in modules) else 1
    rows = rows // finer
    halo = (convolutions + convolutions % 2) // finer
    window = rows + 2 * halo
    b, height, width, c = x.shape
    if window >= height:
        return stage(x)
    strips = -(-height // rows)
    out = jax.eval_shape(lambda x: stage(x), jax.ShapeDtypeStruct((b, window, width, c), x.dtype))

    def strip(i: jax.Array, statistics: _Statistics) -> tuple[jax.Array, jax.Array, _Statistics]:
        """Return the first output row of strip i, its output, and its norms' statistics."""
        start = jnp.minimum(i * rows, height - rows)  # the last strip overlaps the previous one
        first = jnp.clip(start - halo, 0, height - window)
        row = first + jnp.arange(window)
        norms = _StripNorms(statistics, new=(row >= i * rows) & (row < start + rows))
        y = norms.replace_norms(stage)(jax.lax.dynamic_slice_in_dim(x, first, window, axis=1))
        size, skip, start = (n * out.shape[1] // window for n in (rows, start - first, start))
        return start, jax.lax.dynamic_slice_in_dim(y, skip, size, axis=1), norms.measured()

    def run_pass(_: jax.Array, carry: tuple[jax.Array, _Statistics]) -> Any:
        y, statistics = carry

        def write(y: jax.Array, i: jax.Array) -> tuple[jax.Array, _Statistics]:
            start, rows_out, measured = strip(i, statistics)
            return jax.lax.dynamic_update_slice_in_dim(y, rows_out, start, axis=1), measured

        y, measured = jax.lax.scan(write, y, jnp.arange(strips))
        last = height - (strips - 1) * rows
        return y, _merge_statistics(measured, np.array([rows] * (strips - 1) + [last]) / height)

    shape = (len(norms), b, norms[0].num_groups)
    unknown = _Statistics(jnp.zeros(shape), jnp.ones(shape))
    y = jnp.zeros((b, height * out.shape[1] // window, *out.shape[2:]))
    y, _ = jax.lax.fori_loop(0, len(norms) + 1, run_pass, (y, unknown))
    return y


class _Statistics(NamedTuple):
    """Statistics of the inputs of a stage's N GroupNorms, in call order."""

    mean: jax.Array  # (N, B, G) float32
    variance: jax.Array  # (N, B, G) float32


class _StripNorms:
    """A stage's GroupNorms in one window: they apply given statistics and measure new ones."""

    def __init__(self, statistics: _Statistics, new: jax.Array):
        """`new` (rows of the window,) bool selects the rows to measure."""
        self._given = list(zip(*statistics, strict=True))
        self._new = new
        self._measured: list[tuple[jax.Array, jax.Array]] = []

    def replace_norms(self, stage: nnx.Module) -> Any:
        """Return a copy of the modules with these norms and the same parameters."""

        def replace(path: Any, node: Any) -> Any:
            return partial(self._normalize, node) if isinstance(node, nnx.GroupNorm) else node

        return nnx.recursive_map(replace, stage)

    def _normalize(self, norm: nnx.GroupNorm, x: jax.Array) -> jax.Array:
        """Normalize with the given statistics: (B, H, W, C) -> (B, H, W, C)."""
        mean, variance = self._given[len(self._measured)]
        new = self._new.repeat(x.shape[1] // len(self._new))
        self._measured.append(_measure(x, norm.num_groups, new))
        scale = jax.lax.rsqrt(variance + norm.epsilon)
        assert norm.scale is not None  # every norm of the autoencoder has both
        assert norm.bias is not None
        mean, scale = (s.repeat(norm.group_size, axis=1)[:, None, None] for s in (mean, scale))
        return (x - mean) * (scale * norm.scale[...]) + norm.bias[...]

    def measured(self) -> _Statistics:
        """Return the statistics of all norms' inputs in the new rows."""
        return _Statistics(*map(jnp.stack, zip(*self._measured, strict=True)))


def _measure(x: jax.Array, groups: int, new: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance (B, G) of the rows of x (B, H, W, C) where `new` (H,) is true."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, groups, c // groups)
    axes, where = (1, 2, 4), new[:, None, None, None]
    mean = x.mean(axes, where=where)
    return mean, jnp.square(x - mean[:, None, None, :, None]).mean(axes, where=where)


def _merge_statistics(strips: _Statistics, shares: Any) -> _Statistics:
    """Merge statistics of strips (leading axis); `shares` are the strips' shares of the rows."""
    shares = jnp.float32(shares)[:, None, None, None]
    mean = (shares * strips.mean).sum(0)
    return _Statistics(mean, (shares * (strips.variance + (strips.mean - mean) ** 2)).sum(0))
