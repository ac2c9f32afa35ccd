"""The DiT: double-stream blocks, single-stream blocks, final layer (after FLUX.1).

Tokens run as [noise | reference | text]: attention does not care, and text padding is a suffix.
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
    all_chunks_of,
    chunks_of,
    modulate,
    modulation,
    scan,
    stack,
)
from step1x_jax.models.linear import Linear
from step1x_jax.models.remat import GATED, MLP, QKV


def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation, as published."""
    return nnx.gelu(x, approximate=True)


class SelfAttention(nnx.Module):
    """What lies around an attention: q, k, v and the scales of their norms, a projection after."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, k = config.hidden_size, config.head_dim
        e = config.num_heads * k
        make = partial(Linear, config=config, rngs=rngs)
        into = partial(make, "bld,de->ble", (d, e), ("embed", "heads"))
        self.q = into(bias_init=constant(config.qk_bias_init))
        self.k = into(bias_init=constant(config.qk_bias_init))
        self.v = into()
        self.query_norm = HeadNorm(k, config=config, rngs=rngs)
        self.key_norm = HeadNorm(k, config=config, rngs=rngs)
        self.proj = make("ble,ed->bld", (e, d), ("heads", "embed"))

    def qkv(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x (B, L, D) -> queries, keys and values (B, L, E), the first two not yet normalised."""
        return self.q(x), self.k(x), self.v(x)

    @property
    def scales(self) -> jax.Array:
        """Of the norms of queries and keys: (2, K)."""
        return jnp.stack([self.query_norm.scale[...], self.key_norm.scale[...]])


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, scales: jax.Array, rope: jax.Array, **options: Any
) -> jax.Array:
    """`qk_norm_rope_attention` of what a remat policy may save; scales (2, M, K)."""
    q, k, v = (checkpoint_name(x, QKV) for x in (q, k, v))
    q_scale, k_scale = scales
    return qk_norm_rope_attention(q, k, v, q_scale, k_scale, rope, **options)


class Stream(nnx.Module):
    """One side (image or text) of a double block: all but the attention, which both share."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, f = config.hidden_size, config.mlp_dim
        make = partial(Linear, config=config, rngs=rngs)
        self.mod = modulation(6, d, gates=(2, 5), config=config, rngs=rngs)
        self.attn = SelfAttention(config, rngs=rngs)
        self.mlp_in = make("bld,df->blf", (d, f), ("embed", "mlp"))
        self.mlp_out = make("blf,fd->bld", (f, d), ("mlp", "embed"))

    def heads(self, x: jax.Array, mod: jax.Array) -> tuple[jax.Array, ...]:
        """x (B, l, D), mod (6, B, D) -> q, k, v (B, l, E), not yet normalised."""
        shift, scale = mod[:2]
        return self.attn.qkv(modulate(x, shift, scale))

    def update(self, x: jax.Array, mod: jax.Array, attended: jax.Array) -> jax.Array:
        """x (B, l, D), mod (6, B, D), what was attended to (B, l, E) -> (B, l, D)."""
        gate1, shift2, scale2, gate2 = mod[2:]
        x = x + gate1[:, None] * checkpoint_name(self.attn.proj(attended), GATED)
        hidden = gelu(checkpoint_name(self.mlp_in(modulate(x, shift2, scale2)), MLP))
        return x + gate2[:, None] * checkpoint_name(self.mlp_out(hidden), GATED)


class DoubleBlock(nnx.Module):
    """Image and text with weights of their own and one joint attention."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.implementation = config.attention
        self.img = Stream(config, rngs=rngs)
        self.txt = Stream(config, rngs=rngs)

    def __call__(
        self,
        x: tuple[jax.Array, jax.Array],
        rope: jax.Array,
        kv_lengths: jax.Array | None,
        mods: tuple[jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """x = image (B, I, D) and text (B, T, D); mods = those of both (6, B, D)."""
        image, text = x
        image_mod, text_mod = mods
        n = image.shape[1]

        image_qkv, text_qkv = self.img.heads(image, image_mod), self.txt.heads(text, text_mod)
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(image_qkv, text_qkv, strict=True))
        scales = jnp.stack([self.img.attn.scales, self.txt.attn.scales], axis=1)
        attended = attend(
            q, k, v, scales, rope,
            split=n, kv_lengths=kv_lengths, implementation=self.implementation,
        )  # fmt: skip

        image = self.img.update(image, image_mod, attended[:, :n])
        text = self.txt.update(text, text_mod, attended[:, n:])
        return image, text


class SingleBlock(nnx.Module):
    """Attention and MLP in parallel over all tokens, behind one gate.

    The published linear1 is `attn.q`, `attn.k`, `attn.v` and `mlp_in` here, linear2 is `attn.proj`
    (with its bias) and `mlp_out`: matmuls without splits and concatenations.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, f = config.hidden_size, config.mlp_dim
        make = partial(Linear, config=config, rngs=rngs)
        self.implementation = config.attention
        self.modulation = modulation(3, d, gates=(2,), config=config, rngs=rngs)
        self.attn = SelfAttention(config, rngs=rngs)
        self.mlp_in = make("bld,df->blf", (d, f), ("embed", "mlp"))
        self.mlp_out = make("blf,fd->bld", (f, d), ("mlp", "embed"), bias_init=None)

    def __call__(
        self, x: jax.Array, rope: jax.Array, kv_lengths: jax.Array | None, mod: jax.Array
    ) -> jax.Array:
        """x (B, L, D), mod (3, B, D) -> (B, L, D)."""
        shift, scale, gate = mod
        normed = modulate(x, shift, scale)
        q, k, v = self.attn.qkv(normed)
        attended = attend(
            q, k, v, self.attn.scales[:, None], rope,
            kv_lengths=kv_lengths, implementation=self.implementation,
        )  # fmt: skip
        hidden = gelu(checkpoint_name(self.mlp_in(normed), MLP))
        both = self.attn.proj(attended) + self.mlp_out(hidden)
        return x + gate[:, None] * checkpoint_name(both, GATED)


class FinalLayer(nnx.Module):
    """Modulated LayerNorm and the projection to latents."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, c = config.hidden_size, config.in_channels
        self.adaLN_modulation = modulation(2, d, gates=(), config=config, rngs=rngs)
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
        shift, scale = chunks_of(self.adaLN_modulation, vec)
        return self.linear(modulate(x, shift, scale))


class Transformer(nnx.Module):
    """The whole DiT: image and text tokens to velocities of the image tokens."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d = config.hidden_size
        make = partial(Linear, "blc,cd->bld", config=config, rngs=rngs)
        self.config = config
        self.img_in = make((config.in_channels, d), ("channels", "embed"))
        self.txt_in = make((config.context_in_dim, d), ("context", "embed"))
        self.time_in = Embedder(256, d, config=config, rngs=rngs)
        self.vector_in = Embedder(config.vec_in_dim, d, config=config, rngs=rngs)
        self.double_blocks = stack(config.depth, lambda rngs: DoubleBlock(config, rngs=rngs), rngs)
        self.single_blocks = stack(
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
        kv_lengths: jax.Array | None,
    ) -> jax.Array:
        """The velocity at every image token.

        Args:
          image: (B, I, C) noise tokens, then reference tokens.
          text: (B, T, C') tokens of the connector.
          vector: (B, V) of the connector.
          timesteps: (B,) float32 in [0, 1].
          rope: (2, I + T, K) of `rope_table`, text last.
          kv_lengths: (B,) int32 valid tokens, or None for all (the releases attend to padding).

        Returns:
          (B, I, C) in the compute dtype.
        """
        image, text = self.img_in(image), self.txt_in(text)
        vec = self.time_in(timestep_embedding(timesteps)) + self.vector_in(vector)
        vec = nnx.silu(vec)
        text, rope, kv_lengths = self._padded(text, image.shape[1], rope, kv_lengths)
        run = partial(scan, remat=self.config.remat)

        # the modulations of all blocks at once: they depend on the conditioning alone
        double: Any = self.double_blocks
        single: Any = self.single_blocks
        mods = all_chunks_of(double.img.mod, vec), all_chunks_of(double.txt.mod, vec)
        image, text = run(double, (image, text), rope, kv_lengths, per_block=mods)
        x = jnp.concatenate([image, text], axis=1)
        x = run(single, x, rope, kv_lengths, per_block=all_chunks_of(single.modulation, vec))
        return self.final_layer(x[:, : image.shape[1]], vec)

    def _padded(
        self, text: jax.Array, n: int, rope: jax.Array, kv_lengths: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Text, rope and lengths with as many tokens as the attention works on, at the end."""
        config, length = self.config, n + text.shape[1]
        wanted = working_length(length, config.head_dim, config.dtype, config.attention)
        if wanted == length:
            return text, rope, kv_lengths
        if kv_lengths is None:
            kv_lengths = jnp.full(len(text), length, jnp.int32)
        behind = (0, 0), (0, wanted - length), (0, 0)
        return jnp.pad(text, behind), jnp.pad(rope, behind), kv_lengths
