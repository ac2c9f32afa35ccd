"""The DiT: double-stream blocks, single-stream blocks, final layer (after FLUX.1).

The token order is [noise | reference | text]: attention is independent of the order, and this way
text padding is at the end.

Legend: B batch, I image tokens (noise, then reference), T text tokens, L = I + T, D width, K head
width, E = heads * K, F mlp width, V width of the global vector, C other widths.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import constant, zeros

from step1x_jax.kernels.attention import qk_norm_rope_attention, working_length
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.embeddings import timestep_embedding
from step1x_jax.models.layers import (
    Embedder,
    HeadNorm,
    compute_all_modulations,
    compute_modulation,
    make_modulation,
    modulate,
    scan_blocks,
    stack_blocks,
)
from step1x_jax.models.linear import Linear
from step1x_jax.models.remat import GATED, MLP, QKV


def gelu(x: jax.Array) -> jax.Array:
    """Apply GELU in its tanh approximation, as published."""
    return nnx.gelu(x, approximate=True)


class SelfAttention(nnx.Module):
    """The parameters of an attention: q, k, v, scales of QK-norm and output projection."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, k = config.hidden_size, config.head_dim
        e = config.num_heads * k
        make = partial(Linear, config=config, rngs=rngs)
        make_input = partial(make, "bld,de->ble", (d, e), ("embed", "heads"))
        self.q = make_input(bias_init=constant(config.qk_bias_init))
        self.k = make_input(bias_init=constant(config.qk_bias_init))
        self.v = make_input()
        self.query_norm = HeadNorm(k, config=config, rngs=rngs)
        self.key_norm = HeadNorm(k, config=config, rngs=rngs)
        self.proj = make("ble,ed->bld", (e, d), ("heads", "embed"))

    def qkv(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Project x (B, L, D) to queries, keys and values (B, L, E), before QK-norm."""
        return self.q(x), self.k(x), self.v(x)

    @property
    def scales(self) -> jax.Array:
        """Scales of the norms of queries and keys: (2, K)."""
        return jnp.stack([self.query_norm.scale[...], self.key_norm.scale[...]])


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, scales: jax.Array, rope: jax.Array, **options: Any
) -> jax.Array:
    """Names q, k and v for remat, then calls `qk_norm_rope_attention`; scales (2, M, K)."""
    q, k, v = (checkpoint_name(x, QKV) for x in (q, k, v))
    q_scale, k_scale = scales
    return qk_norm_rope_attention(q, k, v, q_scale, k_scale, rope, **options)


class Stream(nnx.Module):
    """One stream (image or text) of a double block, without the joint attention."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, f = config.hidden_size, config.mlp_dim
        make = partial(Linear, config=config, rngs=rngs)
        self.mod = make_modulation(6, d, gates=(2, 5), config=config, rngs=rngs)
        self.attn = SelfAttention(config, rngs=rngs)
        self.mlp_in = make("bld,df->blf", (d, f), ("embed", "mlp"))
        self.mlp_out = make("blf,fd->bld", (f, d), ("mlp", "embed"))

    def qkv(self, x: jax.Array, mod: jax.Array) -> tuple[jax.Array, ...]:
        """x (B, l, D), mod (6, B, D) -> q, k, v (B, l, E), before QK-norm."""
        shift, scale = mod[:2]
        return self.attn.qkv(modulate(x, shift, scale))

    def update(self, x: jax.Array, mod: jax.Array, attended: jax.Array) -> jax.Array:
        """x (B, l, D), mod (6, B, D), attention output (B, l, E) -> (B, l, D)."""
        gate1, shift2, scale2, gate2 = mod[2:]
        x = x + gate1[:, None] * checkpoint_name(self.attn.proj(attended), GATED)
        hidden = gelu(checkpoint_name(self.mlp_in(modulate(x, shift2, scale2)), MLP))
        return x + gate2[:, None] * checkpoint_name(self.mlp_out(hidden), GATED)


class DoubleBlock(nnx.Module):
    """Image and text streams with separate weights and one joint attention."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.implementation = config.attention
        self.img = Stream(config, rngs=rngs)
        self.txt = Stream(config, rngs=rngs)

    def __call__(
        self,
        x: tuple[jax.Array, jax.Array],
        rope: jax.Array,
        kv_lengths: jax.Array | None,
        total_keys: int | None,
        mods: tuple[jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """Return image and text; x = image (B, I, D), text (B, T, D); mods = two (6, B, D)."""
        image, text = x
        image_mod, text_mod = mods
        n = image.shape[1]

        image_qkv, text_qkv = self.img.qkv(image, image_mod), self.txt.qkv(text, text_mod)
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(image_qkv, text_qkv, strict=True))
        scales = jnp.stack([self.img.attn.scales, self.txt.attn.scales], axis=1)
        attended = attend(
            q, k, v, scales, rope,
            split=n, kv_lengths=kv_lengths, total_keys=total_keys,
            implementation=self.implementation,
        )  # fmt: skip

        image = self.img.update(image, image_mod, attended[:, :n])
        text = self.txt.update(text, text_mod, attended[:, n:])
        return image, text


class SingleBlock(nnx.Module):
    """Attention and MLP in parallel over all tokens, with one gate.

    The published linear1 is `attn.q`, `attn.k`, `attn.v` and `mlp_in` here; linear2 is `attn.proj`
    (with its bias) and `mlp_out`. This avoids splits and concatenations around the matmuls.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, f = config.hidden_size, config.mlp_dim
        make = partial(Linear, config=config, rngs=rngs)
        self.implementation = config.attention
        self.modulation = make_modulation(3, d, gates=(2,), config=config, rngs=rngs)
        self.attn = SelfAttention(config, rngs=rngs)
        self.mlp_in = make("bld,df->blf", (d, f), ("embed", "mlp"))
        self.mlp_out = make("blf,fd->bld", (f, d), ("mlp", "embed"), bias_init=None)

    def __call__(
        self,
        x: jax.Array,
        rope: jax.Array,
        kv_lengths: jax.Array | None,
        total_keys: int | None,
        mod: jax.Array,
    ) -> jax.Array:
        """x (B, L, D), mod (3, B, D) -> (B, L, D)."""
        shift, scale, gate = mod
        normed = modulate(x, shift, scale)
        q, k, v = self.attn.qkv(normed)
        attended = attend(
            q, k, v, self.attn.scales[:, None], rope,
            kv_lengths=kv_lengths, total_keys=total_keys, implementation=self.implementation,
        )  # fmt: skip
        hidden = gelu(checkpoint_name(self.mlp_in(normed), MLP))
        both = self.attn.proj(attended) + self.mlp_out(hidden)
        return x + gate[:, None] * checkpoint_name(both, GATED)


class FinalLayer(nnx.Module):
    """Modulated LayerNorm and the projection to latents."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, c = config.hidden_size, config.in_channels
        self.adaLN_modulation = make_modulation(2, d, gates=(), config=config, rngs=rngs)
        self.linear = Linear(
            "bld,dc->blc",
            (d, c),
            ("embed", "channels"),
            config=config,
            rngs=rngs,
            kernel_init=zeros,
        )

    def __call__(self, x: jax.Array, vec: jax.Array) -> jax.Array:
        """x (B, I, D), vec (B, D) -> (B, I, C)."""
        shift, scale = compute_modulation(self.adaLN_modulation, vec)
        return self.linear(modulate(x, shift, scale))


class Transformer(nnx.Module):
    """The whole DiT: maps image and text tokens to velocities of the image tokens."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d = config.hidden_size
        make = partial(Linear, "blc,cd->bld", config=config, rngs=rngs)
        self.config = config
        self.img_in = make((config.in_channels, d), ("channels", "embed"))
        self.txt_in = make((config.context_in_dim, d), ("context", "embed"))
        self.time_in = Embedder(256, d, config=config, rngs=rngs)
        self.vector_in = Embedder(config.vec_in_dim, d, config=config, rngs=rngs)
        self.double_blocks = stack_blocks(
            config.depth, lambda rngs: DoubleBlock(config, rngs=rngs), rngs
        )
        self.single_blocks = stack_blocks(
            config.depth_single_blocks, lambda rngs: SingleBlock(config, rngs=rngs), rngs
        )
        self.final_layer = FinalLayer(config, rngs=rngs)

    def __call__(
        self,
        image: jax.Array,
        text: jax.Array,
        vector: jax.Array,
        timesteps: jax.Array,
        rope: jax.Array,
        kv_lengths: jax.Array,
        total_keys: int | None,
    ) -> jax.Array:
        """Compute the velocity at every image token.

        Args:
          image: (B, I, C) noise tokens, then reference tokens.
          text: (B, T, C') text tokens of the connector.
          vector: (B, V) global vector of the connector.
          timesteps: (B,) float32 in [0, 1].
          rope: (2, I + T, K) of `rope_table`, text last.
          kv_lengths: (B,) int32 valid tokens.
          total_keys: as in `attention`: tokens that the last valid one completes; None: it counts
            once.

        Returns:
          (B, I, C) in the compute dtype.
        """
        image, text = self.img_in(image), self.txt_in(text)
        vec = self.time_in(timestep_embedding(timesteps)) + self.vector_in(vector)
        vec = nnx.silu(vec)
        text, rope = self._pad_tokens(text, image.shape[1], rope)
        context = rope, kv_lengths, total_keys
        run = partial(scan_blocks, remat=self.config.remat)

        # the modulations of all blocks at once: they depend only on the conditioning
        double: Any = self.double_blocks
        single: Any = self.single_blocks
        mods = (
            compute_all_modulations(double.img.mod, vec),
            compute_all_modulations(double.txt.mod, vec),
        )
        image, text = run(double, (image, text), *context, per_block=mods)
        x = jnp.concatenate([image, text], axis=1)
        x = run(single, x, *context, per_block=compute_all_modulations(single.modulation, vec))
        return self.final_layer(x[:, : image.shape[1]], vec)

    def _pad_tokens(self, text: jax.Array, n: int, rope: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Pad text and rope so that the number of tokens suits the attention kernel."""
        config, length = self.config, n + text.shape[1]
        padded = working_length(length, config.head_dim, config.dtype, config.attention)
        if padded == length:
            return text, rope
        widths = (0, 0), (0, padded - length), (0, 0)
        return jnp.pad(text, widths), jnp.pad(rope, widths)
