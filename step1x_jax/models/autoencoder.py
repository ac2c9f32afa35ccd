"""The FLUX autoencoder (VAE): maps images to latents and back.

Legend: B batch, H W pixels, h w latent positions, C channels. Module names are those of the
published file, so that a key of the file is an attribute path here.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import lecun_normal

from step1x_jax.kernels.attention import attention
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.models.layers import abstract
from step1x_jax.models.linear import skippable

# Queries per attention call: the logits of all queries take 1 GiB at 1024 pixels, 16 GiB at 2048.
QUERIES = 1024
KERNEL_INIT = skippable(lecun_normal())  # the default of nnx.Conv


def group_norm(channels: int, groups: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Create a GroupNorm with the published eps and a two-pass variance."""
    return nnx.GroupNorm(
        channels, num_groups=groups, epsilon=1e-6, use_fast_variance=False, rngs=rngs
    )


def conv(c_in: int, c_out: int, size: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Create a convolution that keeps height and width."""
    return nnx.Conv(
        c_in, c_out, (size, size), padding=size // 2, kernel_init=KERNEL_INIT, rngs=rngs
    )


class ResnetBlock(nnx.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input (1x1 convolution if widths differ)."""

    def __init__(self, c_in: int, c_out: int, groups: int, rngs: nnx.Rngs):
        self.norm1 = group_norm(c_in, groups, rngs)
        self.conv1 = conv(c_in, c_out, 3, rngs)
        self.norm2 = group_norm(c_out, groups, rngs)
        self.conv2 = conv(c_out, c_out, 3, rngs)
        self.nin_shortcut = conv(c_in, c_out, 1, rngs) if c_in != c_out else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, c_in) -> (B, H, W, c_out)."""
        h = self.conv1(nnx.silu(self.norm1(x)))
        h = self.conv2(nnx.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nnx.Module):
    """Single-head self-attention over all positions, with a residual connection."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        self.norm = group_norm(channels, groups, rngs)
        self.q = conv(channels, channels, 1, rngs)
        self.k = conv(channels, channels, 1, rngs)
        self.v = conv(channels, channels, 1, rngs)
        self.proj_out = conv(channels, channels, 1, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        b, h, w, c = x.shape
        normed = self.norm(x)
        q, k, v = (f(normed).reshape(b, h * w, c) for f in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v).reshape(b, h, w, c))


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Compute `attention` in float32, QUERIES queries at a time.

    Uses plain JAX. The TPU kernels keep a head's keys in VMEM, and one head with all channels does
    not fit there at 1024 pixels. The GPU kernels do not support float32.

    Args:
      q: (B, L, C) float32; one head.
      k: (B, L, C).
      v: (B, L, C).

    Returns:
      (B, L, C).
    """
    b, length, c = q.shape
    queries = min(length, QUERIES)
    q = jnp.pad(q, ((0, 0), (0, -length % queries), (0, 0)))
    blocks = q.reshape(b, -1, queries, c).swapaxes(0, 1)
    out = jax.lax.map(lambda q: attention(q, k, v, head_dim=c, implementation="xla"), blocks)
    return out.swapaxes(0, 1).reshape(q.shape)[:, :length]


class Mid(nnx.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        self.block_1 = ResnetBlock(channels, channels, groups, rngs)
        self.attn_1 = AttentionBlock(channels, groups, rngs)
        self.block_2 = ResnetBlock(channels, channels, groups, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nnx.Module):
    """3x3 convolution of stride 2, zero-padded by one row below and one column on the right."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels,
            channels,
            (3, 3),
            strides=2,
            padding=((0, 1), (0, 1)),
            kernel_init=KERNEL_INIT,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H/2, W/2, C)."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, 2H, 2W, C)."""
        return self.conv(x.repeat(2, axis=1).repeat(2, axis=2))


class Level(nnx.Module):
    """The resnets of one resolution, then a change of resolution ("down", "up" or None)."""

    def __init__(self, widths: list[int], groups: int, resample: str | None, rngs: nnx.Rngs):
        self.block = nnx.List(
            ResnetBlock(c_in, c_out, groups, rngs) for c_in, c_out in itertools.pairwise(widths)
        )
        self.downsample = Downsample(widths[-1], rngs) if resample == "down" else None
        self.upsample = Upsample(widths[-1], rngs) if resample == "up" else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', C')."""
        for block in self.block:
            x = block(x)
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


class Encoder(nnx.Module):
    """Maps images to mean and log-variance of the latents."""

    def __init__(self, config: AutoencoderConfig, rngs: nnx.Rngs):
        groups = config.norm_groups
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = conv(3, config.ch, 3, rngs)
        self.down: nnx.List[Level] = nnx.List()
        previous = config.ch
        for i, width in enumerate(widths):
            resample = "down" if i < len(widths) - 1 else None
            path = [previous] + [width] * config.num_res_blocks
            self.down.append(Level(path, groups, resample, rngs))
            previous = width
        self.mid = Mid(previous, groups, rngs)
        self.norm_out = group_norm(previous, groups, rngs)
        self.conv_out = conv(previous, 2 * config.z_channels, 3, rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(B, H, W, 3) -> mean and logvar, (B, h, w, z) each."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.end(x)

    def end(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Apply the last layers: (B, h, w, C) -> mean and logvar, (B, h, w, z) each."""
        x = self.conv_out(nnx.silu(self.norm_out(self.mid(x))))
        mean, logvar = jnp.split(x, 2, axis=-1)
        return mean, logvar


class Decoder(nnx.Module):
    """Maps latents to images; `up` runs from its highest index to 0, as published."""

    def __init__(self, config: AutoencoderConfig, rngs: nnx.Rngs):
        groups = config.norm_groups
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = conv(config.z_channels, widths[-1], 3, rngs)
        self.mid = Mid(widths[-1], groups, rngs)
        levels = []
        previous = widths[-1]
        for i in reversed(range(len(widths))):
            path = [previous] + [widths[i]] * (config.num_res_blocks + 1)
            levels.append(Level(path, groups, "up" if i > 0 else None, rngs))
            previous = widths[i]
        self.up = nnx.List(reversed(levels))
        self.norm_out = group_norm(previous, groups, rngs)
        self.conv_out = conv(previous, 3, 3, rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        """(B, h, w, z) -> (B, H, W, 3)."""
        x = self.begin(z)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(nnx.silu(self.norm_out(x)))

    def begin(self, z: jax.Array) -> jax.Array:
        """Apply the first layers: (B, h, w, z) -> (B, h, w, C)."""
        return self.mid(self.conv_in(z))


def abstract_autoencoder(config: AutoencoderConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Return graph definition and abstract parameters of the autoencoder; see `abstract`.

    Cached per config: opening weights also needs them, and tracing the module is slow.
    """
    graph, params = _abstract(
        dataclasses.replace(config)
    )  # a copy as key: callers may change theirs
    return graph, jax.tree.map(lambda shape: shape, params)


@functools.lru_cache(maxsize=4)
def _abstract(config: AutoencoderConfig) -> tuple[nnx.GraphDef, nnx.State]:
    return abstract(lambda rngs: Autoencoder(config, rngs=rngs))


class Autoencoder(nnx.Module):
    """Encoder and decoder, with the scale and shift of the DiT's latents."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        config.validate()
        self.config = dataclasses.replace(config)  # a copy: later changes must not affect the model
        self.encoder = Encoder(config, rngs)
        self.decoder = Decoder(config, rngs)

    def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encode images to mean and log-variance of the latents, before scale and shift.

        Args:
          images: (B, H, W, 3) float32 in [-1, 1], H and W multiples of 8.

        Returns:
          mean and logvar, (B, H/8, W/8, 16) float32 each.
        """
        return self.encoder(images)

    def encode(self, images: jax.Array) -> jax.Array:
        """Encode images to scaled latents: the mean, where the published code draws a sample.

        Args:
          images: (B, H, W, 3) float32 in [-1, 1], H and W multiples of 8.

        Returns:
          (B, H/8, W/8, 16) float32.
        """
        mean, _ = self.moments(images)
        return self.scale_latents(mean)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decode scaled latents to images, without clipping.

        Args:
          latents: (B, h, w, 16).

        Returns:
          (B, 8h, 8w, 3) float32, about [-1, 1].
        """
        return self.decoder(self.unscale_latents(latents))

    def scale_latents(self, mean: jax.Array) -> jax.Array:
        """Convert the encoder's mean to latents of the DiT; same shape."""
        return self.config.scale_factor * (mean - self.config.shift_factor)

    def unscale_latents(self, latents: jax.Array) -> jax.Array:
        """Convert the DiT's latents, of any dtype, to the decoder's input: float32, same shape."""
        latents = latents.astype(jnp.float32)
        return latents / self.config.scale_factor + self.config.shift_factor
