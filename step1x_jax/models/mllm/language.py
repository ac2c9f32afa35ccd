"""The language model of Qwen2.5-VL, without the parts for text generation (KV cache, lm_head).

Module names are those of the published file.

Legend: B batch, T tokens, D width, F mlp width, H query heads, G key/value heads, K head width,
E = H * K or G * K, N layers, V size of the vocabulary.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal

from step1x_jax.kernels.attention import attention
from step1x_jax.models.embeddings import apply_rope
from step1x_jax.models.layers import scan_blocks, stack_blocks
from step1x_jax.models.linear import Linear, param
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.layers import MLP, RMSNorm, rope_frequencies, rotary_table


class LanguageAttention(nnx.Module):
    """Causal grouped-query attention with rotary positions on three axes.

    Padding is at the end, so the causal mask already hides it from the text. A key_mask is needed
    only to hide tokens within the text.
    """

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        language = config.language
        d, k = language.hidden_size, language.head_dim
        h, g = language.num_attention_heads, language.num_key_value_heads
        self.head_dim = k
        make = partial(Linear, config=config, rngs=rngs)
        self.q_proj = make("btd,de->bte", (d, h * k), ("embed", "heads"))
        self.k_proj = make("btd,de->bte", (d, g * k), ("embed", "heads"))
        self.v_proj = make("btd,de->bte", (d, g * k), ("embed", "heads"))
        self.o_proj = make("bte,ed->btd", (h * k, d), ("heads", "embed"), bias_init=None)

    def __call__(
        self, x: jax.Array, rope: jax.Array, key_mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, T, D), rope (2, B, T, K), key_mask (B, T) bool or None -> (B, T, D)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k = (apply_rope(a.astype(jnp.float32), rope).astype(v.dtype) for a in (q, k))
        return self.o_proj(
            attention(q, k, v, head_dim=self.head_dim, causal=True, key_mask=key_mask)
        )


class LanguageLayer(nnx.Module):
    """Pre-norm attention, then pre-norm MLP, each with a residual connection."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        language = config.language
        d, f, eps = language.hidden_size, language.intermediate_size, language.rms_norm_eps
        self.input_layernorm = RMSNorm(d, eps, config=config, rngs=rngs)
        self.self_attn = LanguageAttention(config, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(d, eps, config=config, rngs=rngs)
        self.mlp = MLP(d, f, bias=False, config=config, rngs=rngs)

    def __call__(
        self, x: jax.Array, rope: jax.Array, key_mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, T, D), rope (2, B, T, K), key_mask (B, T) bool or None -> (B, T, D)."""
        x = x + self.self_attn(self.input_layernorm(x), rope, key_mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class LanguageModel(nnx.Module):
    """The whole language model, from embedded tokens to the last hidden state."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        language = config.language
        v, d = language.vocab_size, language.hidden_size
        self.config = language
        self.dtype = jnp.dtype(config.dtype)
        self.embed_tokens = param(normal(1.0), (v, d), ("vocab", "embed"), config, rngs)
        self.layers = stack_blocks(
            language.num_hidden_layers, lambda rngs: LanguageLayer(config, rngs=rngs), rngs
        )
        self.norm = RMSNorm(d, language.rms_norm_eps, config=config, rngs=rngs)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Embed token ids: (B, T) int32 -> (B, T, D) in the compute dtype."""
        return self.embed_tokens[...][ids].astype(self.dtype)

    def layer_outputs(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Return all layers' outputs, without the final norm: (N, B, T, D); see __call__."""
        return self._run(x, positions, None, collect=True)

    def __call__(
        self, x: jax.Array, positions: jax.Array, key_mask: jax.Array | None = None
    ) -> jax.Array:
        """Compute the last hidden state.

        Args:
          x: (B, T, D) embedded tokens, including the image tokens.
          positions: (B, 3, T) int32 of `prompt_positions`.
          key_mask: (B, T) bool of `pad_prompts`; None: causal attention to all tokens.

        Returns:
          (B, T, D) in the compute dtype, after the final norm; undefined in the padding.
        """
        return self.norm(self._run(x, positions, key_mask, collect=False))

    def _run(
        self, x: jax.Array, positions: jax.Array, key_mask: jax.Array | None, collect: bool
    ) -> jax.Array:
        config = self.config
        axes = np.repeat([0, 1, 2], config.mrope_section)
        freqs = rope_frequencies(config.head_dim, config.rope_theta)
        rope = rotary_table(positions, axes, freqs)
        masks = () if key_mask is None else (key_mask,)
        return scan_blocks(self.layers, x, rope, *masks, remat="none", collect=collect)
