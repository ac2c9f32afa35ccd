"""The autoencoder for large pictures: the same numbers in a fraction of the memory.

A stage of the network is the blocks of one resolution and the change of resolution beside them. It
is computed in strips of whole rows, and only what lies between two stages is stored as a whole map.
For each strip a window of its input is read: the strip and, above and below, the rows that its 3x3
convolutions reach. The convolutions pad a window as they pad a picture. Where the window ends
inside the picture this makes one more row wrong with each convolution, all of them outside the
strip; where it ends with the picture it is right.

A GroupNorm needs mean and variance of its whole input, which depends on those of the GroupNorms
before it. All strips are therefore computed once more than the stage has GroupNorms: each pass
takes the statistics that the one before it measured, and makes those of one more norm right. That
is several times the work, but no map inside a stage is ever stored.

The modules are those of `autoencoder`, with their own code and parameters; a stage's GroupNorms
alone are replaced, in a copy of its structure.

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

ROWS = 64  # of a strip: at 2048 columns and 256 channels, 0.13 GiB for each map of it
# H W of a picture that is better computed as a whole: 3 GiB, and a fraction of the time.
LARGEST_WHOLE_PIXELS = 3 * 2**19


def encode_tiled(autoencoder: Autoencoder, images: jax.Array, rows: int = ROWS) -> jax.Array:
    """`Autoencoder.encode` in strips; to be called under jit.

    Args:
      autoencoder: its modules and parameters are used as they are.
      images: (B, H, W, 3) float32 in [-1, 1], H and W multiples of 8; one after another.
      rows: height of a strip at a stage's higher resolution, an even number.

    Returns:
      (B, H/8, W/8, 16) float32: those of `Autoencoder.encode` up to rounding.
    """
    encoder = autoencoder.encoder

    def encode(image: jax.Array) -> jax.Array:
        x = image[None]
        for i, level in enumerate(encoder.down):
            x = in_strips([encoder.conv_in, level] if i == 0 else [level], x, rows)
        mean, _ = encoder.end(x)
        return autoencoder.scaled(mean[0])

    return jax.lax.map(encode, images)


def decode_tiled(autoencoder: Autoencoder, latents: jax.Array, rows: int = ROWS) -> jax.Array:
    """`Autoencoder.decode` in strips; to be called under jit.

    Args:
      autoencoder: its modules and parameters are used as they are.
      latents: (B, h, w, 16); one after another.
      rows: height of a strip at a stage's higher resolution, an even number.

    Returns:
      (B, 8h, 8w, 3) float32: those of `Autoencoder.decode` up to rounding.
    """
    decoder = autoencoder.decoder

    def decode(latents: jax.Array) -> jax.Array:
        x = decoder.begin(autoencoder.unscaled(latents[None]))
        before: list[Any] = []  # from the resolution below
        for level in reversed(decoder.up):
            after = [decoder.norm_out, nnx.silu, decoder.conv_out] if level.upsample is None else []
            x = in_strips([*before, *level.block, *after], x, rows)
            before = [level.upsample]
        return x[0]

    return jax.lax.map(decode, latents)


def in_strips(layers: Sequence[Any], x: jax.Array, rows: int) -> jax.Array:
    """A stage: the layers one after another, in strips.

    Args:
      layers: modules and functions of the autoencoder. The last may halve the resolution, or the
        first may double it.
      x: (B, H, W, C).
      rows: height of a strip where the resolution is higher, an even number.

    Returns:
      (B, H', W', C').
    """
    if rows < 2 or rows % 2:
        raise ValueError(f"rows={rows}: want an even number of at least 2.")
    stage = nnx.Sequential(*layers)
    modules = [module for _, module in nnx.iter_modules(stage)]
    convolutions = sum(isinstance(m, nnx.Conv) and m.kernel_size == (3, 3) for m in modules)
    norms = [m for m in modules if isinstance(m, nnx.GroupNorm)]

    # From here on in rows of the input: even numbers where the stage halves them.
    finer = 2 if any(isinstance(m, Upsample) for m in modules) else 1
    rows = rows // finer
    reach = (convolutions + convolutions % 2) // finer
    window = rows + 2 * reach
    b, height, width, c = x.shape
    if window >= height:
        return stage(x)
    strips = -(-height // rows)
    out = jax.eval_shape(lambda x: stage(x), jax.ShapeDtypeStruct((b, window, width, c), x.dtype))

    def strip(i: jax.Array, statistics: _Statistics) -> tuple[jax.Array, jax.Array, _Statistics]:
        """Strip i: its first row in the output, its output, and what its norms were given."""
        start = jnp.minimum(i * rows, height - rows)  # the last begins inside the one before
        first = jnp.clip(start - reach, 0, height - window)
        row = first + jnp.arange(window)
        norms = _Norms(statistics, new=(row >= i * rows) & (row < start + rows))
        y = norms.put_into(stage)(jax.lax.dynamic_slice_in_dim(x, first, window, axis=1))
        size, skip, start = (n * out.shape[1] // window for n in (rows, start - first, start))
        return start, jax.lax.dynamic_slice_in_dim(y, skip, size, axis=1), norms.measured()

    def go_over(_: jax.Array, carry: tuple[jax.Array, _Statistics]) -> Any:
        y, statistics = carry

        def write(y: jax.Array, i: jax.Array) -> tuple[jax.Array, _Statistics]:
            start, part, measured = strip(i, statistics)
            return jax.lax.dynamic_update_slice_in_dim(y, part, start, axis=1), measured

        y, measured = jax.lax.scan(write, y, jnp.arange(strips))
        last = height - (strips - 1) * rows
        return y, _joined(measured, np.array([rows] * (strips - 1) + [last]) / height)

    shape = (len(norms), b, norms[0].num_groups)
    unknown = _Statistics(jnp.zeros(shape), jnp.ones(shape))
    y = jnp.zeros((b, height * out.shape[1] // window, *out.shape[2:]))
    y, _ = jax.lax.fori_loop(0, len(norms) + 1, go_over, (y, unknown))
    return y


class _Statistics(NamedTuple):
    """Of the inputs of a stage's N GroupNorms, in the order in which they are called."""

    mean: jax.Array  # (N, B, G) float32
    variance: jax.Array  # (N, B, G) float32


class _Norms:
    """A stage's GroupNorms in one window: they take given statistics, and measure their input's."""

    def __init__(self, statistics: _Statistics, new: jax.Array):
        """`new` (rows of the window,) are the rows to be measured."""
        self._given = list(zip(*statistics, strict=True))
        self._new = new
        self._measured: list[tuple[jax.Array, jax.Array]] = []

    def put_into(self, stage: nnx.Module) -> Any:
        """A copy of the modules with these norms, and with the same parameters."""

        def replaced(path: Any, node: Any) -> Any:
            return partial(self._normalize, node) if isinstance(node, nnx.GroupNorm) else node

        return nnx.recursive_map(replaced, stage)

    def _normalize(self, norm: nnx.GroupNorm, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        mean, variance = self._given[len(self._measured)]
        new = self._new.repeat(x.shape[1] // len(self._new))
        self._measured.append(_moments(x, norm.num_groups, new))
        scale = jax.lax.rsqrt(variance + norm.epsilon)
        mean, scale = (s.repeat(norm.group_size, axis=1)[:, None, None] for s in (mean, scale))
        return (x - mean) * (scale * norm.scale[...]) + norm.bias[...]

    def measured(self) -> _Statistics:
        """What all norms were given, in the new rows."""
        return _Statistics(*map(jnp.stack, zip(*self._measured, strict=True)))


def _moments(x: jax.Array, groups: int, new: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (B, G) of the rows of x (B, H, W, C) where `new` (H,) is true."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, groups, c // groups)
    axes, where = (1, 2, 4), new[:, None, None, None]
    mean = x.mean(axes, where=where)
    return mean, jnp.square(x - mean[:, None, None, :, None]).mean(axes, where=where)


def _joined(parts: _Statistics, shares: Any) -> _Statistics:
    """The statistics of maps from those of their strips (leading axis), and the strips' shares."""
    shares = jnp.float32(shares)[:, None, None, None]
    mean = (shares * parts.mean).sum(0)
    return _Statistics(mean, (shares * (parts.variance + (parts.mean - mean) ** 2)).sum(0))
