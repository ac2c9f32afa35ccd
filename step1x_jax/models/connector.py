"""The connector: the token refiner between the text encoder and the DiT.

Legend: B batch, T text tokens, C width of the text encoder, D connector width, V width of the
global vector, H heads, K head width.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import constant

from step1x_jax.kernels.attention import attention
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.embeddings import timestep_embedding
from step1x_jax.models.layers import (
    Embedder,
    LayerNorm,
    compute_modulation,
    make_modulation,
    scan_blocks,
    stack_blocks,
)
from step1x_jax.models.linear import Linear, param
from step1x_jax.models.remat import GATED, MLP, QKV

MLP_RATIO = 4
SCALE_FACTOR = -0.91  # initial value of v1.0's learned scalar


def masked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array, head_dim: int
) -> jax.Array:
    """Compute attention of valid queries to valid keys; padded queries return the value of key 0.

    This is as published. The output of padded queries matters, because the released DiT attends to
    all text tokens, including the padding.

    Args:
      q: (B, T, H * K), and k and v alike.
      k: see q.
      v: see q.
      lengths: (B,) int32, valid tokens.
      head_dim: K.

    Returns:
      (B, T, H * K).
    """
    valid = (jnp.arange(q.shape[1]) < lengths[:, None])[..., None]
    # with a few hundred tokens the logits are small: a kernel would only add compile time
    attended = attention(q, k, v, head_dim=head_dim, kv_lengths=lengths, implementation="xla")
    return jnp.where(valid, attended, v[:, :1])


class RefinerBlock(nnx.Module):
    """Self-attention and SiLU MLP, each with a gate computed from timestep and mean text."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d = config.connector_hidden_size
        self.head_dim, f = d // config.connector_heads, d * MLP_RATIO
        make = partial(Linear, config=config, rngs=rngs)
        self.norm1 = LayerNorm(d, config=config, rngs=rngs)
        self.q, self.k, self.v = (make("btd,de->bte", (d, d), ("embed", "heads")) for _ in range(3))
        self.proj = make("bte,ed->btd", (d, d), ("heads", "embed"))
        self.norm2 = LayerNorm(d, config=config, rngs=rngs)
        self.mlp_in = make("btd,df->btf", (d, f), ("embed", "mlp"))
        self.mlp_out = make("btf,fd->btd", (f, d), ("mlp", "embed"))
        self.adaLN_modulation = make_modulation(2, d, gates=(0, 1), config=config, rngs=rngs)

    def __call__(self, x: jax.Array, c: jax.Array, lengths: jax.Array) -> jax.Array:
        """x (B, T, D), c (B, D), lengths (B,) -> (B, T, D)."""
        gate1, gate2 = compute_modulation(self.adaLN_modulation, nnx.silu(c))[:, :, None]
        normed = self.norm1(x)
        q, k, v = (checkpoint_name(linear(normed), QKV) for linear in (self.q, self.k, self.v))
        attended = self.proj(masked_attention(q, k, v, lengths, self.head_dim))
        x = x + gate1 * checkpoint_name(attended, GATED)
        hidden = nnx.silu(checkpoint_name(self.mlp_in(self.norm2(x)), MLP))
        return x + gate2 * checkpoint_name(self.mlp_out(hidden), GATED)


class Connector(nnx.Module):
    """Maps embeddings of the text encoder to the DiT's text tokens and global vector."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c_in, d = config.connector_in_channels, config.connector_hidden_size
        # text is short: saving these intermediates costs little memory and avoids their matmuls
        self.remat = "none" if config.remat == "none" else "attention_qkv_mlp"
        self.t_embedder = Embedder(256, d, config=config, rngs=rngs)
        self.c_embedder = Embedder(c_in, d, config=config, rngs=rngs)
        make = partial(Linear, config=config, rngs=rngs)
        self.input_embedder = make("btc,cd->btd", (c_in, d), ("context", "embed"))
        self.blocks = stack_blocks(
            config.connector_depth, lambda rngs: RefinerBlock(config, rngs=rngs), rngs
        )
        vector_shape = c_in, config.vec_in_dim
        self.global_proj_out = make("bc,cv->bv", vector_shape, ("context", "vector"))
        self.scale_factor = (
            param(constant(SCALE_FACTOR), (1,), (None,), config, rngs)
            if config.version == "v1.0"
            else None
        )

    def __call__(
        self, text: jax.Array, lengths: jax.Array, timesteps: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Compute text tokens and global vector.

        Args:
          text: (B, T, C), zero-padded past `lengths`.
          lengths: (B,) int32, number of valid tokens, at least 1.
          timesteps: (B,) float32 in [0, 1].

        Returns:
          Text tokens (B, T, D) and the global vector (B, V).
        """
        valid = jnp.arange(text.shape[1]) < lengths[:, None]
        total = jnp.einsum("btc,bt->bc", text.astype(jnp.float32), valid.astype(jnp.float32))
        mean = total / lengths[:, None]

        c = self.t_embedder(timestep_embedding(timesteps)) + self.c_embedder(mean)
        tokens = scan_blocks(self.blocks, self.input_embedder(text), c, lengths, remat=self.remat)

        if self.scale_factor is not None:
            mean = mean * (1 + self.scale_factor.astype(jnp.float32))
        return tokens, self.global_proj_out(mean)
