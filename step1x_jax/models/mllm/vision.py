"""The vision tower of Qwen2.5-VL: maps patches to tokens of the language model.

Patches are in window order (positions.py). Most blocks attend within windows of 8 x 8 patches, a
few attend to the whole image. Both kinds are the same block in one scan, with different segment
ids. Module names are those of the published file.

Legend: B images, P patches, M = P / 4 merged tokens, C values in a patch, D width, K head width,
N blocks, E width of the language model (in attention einsums: heads * K).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.kernels.attention import attention
from step1x_jax.models.embeddings import apply_rope
from step1x_jax.models.layers import scan_blocks, stack_blocks
from step1x_jax.models.linear import Linear
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.layers import MLP, RMSNorm, rope_frequencies, rotary_table
from step1x_jax.models.mllm.positions import PADDING, Pictures

EPS = 1e-6  # eps of all norms of the tower; config.json does not contain it


class VisionAttention(nnx.Module):
    """Self-attention within segments, with 2-D rotary positions."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        d, self.head_dim = config.vision.hidden_size, config.vision.head_dim
        make = partial(Linear, config=config, rngs=rngs)
        self.q, self.k, self.v = (make("bpd,de->bpe", (d, d), ("embed", "heads")) for _ in range(3))
        self.proj = make("bpe,ed->bpd", (d, d), ("heads", "embed"))

    def __call__(self, x: jax.Array, rope: jax.Array, segments: jax.Array) -> jax.Array:
        """x (B, P, D), rope (2, B, P, K), segments (B, P) -> (B, P, D)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        q, k = (apply_rope(a.astype(jnp.float32), rope).astype(v.dtype) for a in (q, k))
        return self.proj(attention(q, k, v, head_dim=self.head_dim, segment_ids=segments))


class VisionBlock(nnx.Module):
    """Pre-norm attention, then pre-norm MLP, each with a residual connection."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        d, f = config.vision.hidden_size, config.vision.intermediate_size
        self.norm1 = RMSNorm(d, EPS, config=config, rngs=rngs)
        self.attn = VisionAttention(config, rngs=rngs)
        self.norm2 = RMSNorm(d, EPS, config=config, rngs=rngs)
        self.mlp = MLP(d, f, bias=True, config=config, rngs=rngs)

    def __call__(
        self, x: jax.Array, rope: jax.Array, windows: jax.Array, is_full: jax.Array
    ) -> jax.Array:
        """x (B, P, D), rope (2, B, P, K), windows (B, P), is_full a bool -> (B, P, D)."""
        pictures = jnp.where(windows == PADDING, PADDING, 0)
        segments = jnp.where(is_full, pictures, windows)
        x = x + self.attn(self.norm1(x), rope, segments)
        return x + self.mlp(self.norm2(x))


class Merger(nnx.Module):
    """Applies a norm, concatenates the four patches of a merge unit, and applies an MLP."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        vision = config.vision
        d, e = vision.hidden_size, vision.out_hidden_size
        joined = d * vision.merge_unit
        make = partial(Linear, config=config, rngs=rngs)
        self.ln_q = RMSNorm(d, EPS, config=config, rngs=rngs)
        self.mlp_in = make("bmd,df->bmf", (joined, joined), ("embed", "mlp"))
        self.mlp_out = make("bmf,fe->bme", (joined, e), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, P, D) -> (B, M, E)."""
        units = self.ln_q(x).reshape(x.shape[0], -1, self.mlp_in.kernel.shape[0])
        return self.mlp_out(nnx.gelu(self.mlp_in(units), approximate=False))


class VisionTower(nnx.Module):
    """The whole vision tower, from pixels to tokens of the language model."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        vision = config.vision
        self.config = vision
        self.patch_embed = Linear(
            "bpc,cd->bpd",
            (vision.patch_width, vision.hidden_size),
            ("channels", "embed"),
            config=config,
            rngs=rngs,
            bias_init=None,
        )
        self.blocks = stack_blocks(vision.depth, lambda rngs: VisionBlock(config, rngs=rngs), rngs)
        self.merger = Merger(config, rngs=rngs)

    def block_outputs(self, pictures: Pictures) -> jax.Array:
        """Return each block's output, in window order: (N, B, P, D)."""
        return self._run(pictures, collect=True)

    def __call__(self, pictures: Pictures) -> jax.Array:
        """Compute the image tokens of the language model.

        Args:
          pictures: result of `pad_pictures`.

        Returns:
          (B, M, E) in the compute dtype, in window order; undefined in the padding.
        """
        return self.merger(self._run(pictures, collect=False))

    def _run(self, pictures: Pictures, collect: bool) -> jax.Array:
        config = self.config
        half = config.head_dim // 2  # each of the two axes rotates half of a head's pairs
        axes = np.repeat([0, 1], half // 2)
        freqs = np.tile(rope_frequencies(half, config.rope_theta), 2)
        rope = rotary_table(pictures.positions, axes, freqs)
        is_full = jnp.isin(jnp.arange(config.depth), jnp.array(config.fullatt_block_indexes))
        return scan_blocks(
            self.blocks,
            self.patch_embed(pictures.pixels),
            rope,
            pictures.windows,
            remat="none",
            per_block=is_full,
            collect=collect,
        )
