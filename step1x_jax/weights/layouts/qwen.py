"""Qwen2.5-VL's layout: names and shapes of its tensors, and our parameters for them.

There are two generations of names: model.layers..., visual... and, since transformers 4.52,
model.language_model..., model.visual....

Legend: D width, F mlp width, H query heads, G key/value heads, K head width.
"""

import math

from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.weights.layouts.official import ParamSlice, Table, TensorEntry

OLD_PREFIXES = ("model.", "visual.")  # language model, vision tower
NEW_PREFIXES = ("model.language_model.", "model.visual.")


def mllm_table(config: MLLMConfig, *, newer: bool) -> Table:
    """Return the table from names in the file to our parameters.

    Args:
      config: sizes.
      newer: the newer generation of names.
    """
    language, vision = NEW_PREFIXES if newer else OLD_PREFIXES
    table: Table = {}
    _language(_QwenTableBuilder(table, language, "language_model."), config)
    _vision(_QwenTableBuilder(table, vision, "visual."), config)
    return table


class _QwenTableBuilder:
    """Adds entries under a prefix of the file's names and a prefix of our paths."""

    def __init__(self, table: Table, prefix: str, our_prefix: str):
        self._table, self._prefix, self._ours = table, prefix, our_prefix

    def add(self, name: str, shape: tuple[int, ...], *slices: ParamSlice) -> None:
        self._table[self._prefix + name] = TensorEntry(self._prefix + name, shape, slices)

    def param_slice(self, path: str, layer: int | None, shape: tuple[int, ...]) -> ParamSlice:
        """Return a whole parameter; matrices are (out, in) in the file, (in, out) in ours."""
        return ParamSlice(self._ours + path, layer, shape, (1, 0) if len(shape) == 2 else (0,))

    def vector(self, name: str, path: str, size: int, layer: int | None = None) -> None:
        self.add(name, (size,), self.param_slice(path, layer, (size,)))

    def kernel(self, name: str, path: str, c_in: int, c_out: int, layer: int | None = None) -> None:
        shape = c_out, c_in
        self.add(f"{name}.weight", shape, self.param_slice(f"{path}.kernel", layer, shape))

    def linear(self, name: str, path: str, c_in: int, c_out: int, layer: int | None = None) -> None:
        self.kernel(name, path, c_in, c_out, layer)
        self.vector(f"{name}.bias", f"{path}.bias", c_out, layer)


def _language(b: _QwenTableBuilder, config: MLLMConfig) -> None:
    language = config.language
    d, f, k = language.hidden_size, language.intermediate_size, language.head_dim
    h, g = language.num_attention_heads, language.num_key_value_heads
    vocabulary = language.vocab_size, d
    embedding = ParamSlice("language_model.embed_tokens", None, vocabulary, (0, 1))
    b.add("embed_tokens.weight", vocabulary, embedding)
    b.vector("norm.weight", "norm.scale", d)
    for i in range(language.num_hidden_layers):
        name = f"layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            b.vector(f"{name}.{norm}.weight", f"layers.{norm}.scale", d, i)
        for proj, heads in (("q_proj", h), ("k_proj", g), ("v_proj", g)):
            b.linear(f"{name}.self_attn.{proj}", f"layers.self_attn.{proj}", d, heads * k, i)
        b.kernel(f"{name}.self_attn.o_proj", "layers.self_attn.o_proj", h * k, d, i)
        for proj, c_in, c_out in (("gate_proj", d, f), ("up_proj", d, f), ("down_proj", f, d)):
            b.kernel(f"{name}.mlp.{proj}", f"layers.mlp.{proj}", c_in, c_out, i)


def _vision(b: _QwenTableBuilder, config: MLLMConfig) -> None:
    vision = config.vision
    d, f = vision.hidden_size, vision.intermediate_size
    size, joined = vision.patch_size, d * vision.merge_unit
    patch = (d, vision.in_channels, vision.temporal_patch_size, size, size)
    flat_patch = (d, math.prod(patch[1:]))  # the order in which the processor flattens patches
    b.add("patch_embed.proj.weight", patch, b.param_slice("patch_embed.kernel", None, flat_patch))
    for i in range(vision.depth):
        name = f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            b.vector(f"{name}.{norm}.weight", f"blocks.{norm}.scale", d, i)
        for kind, shape in (("weight", (d, d)), ("bias", (d,))):
            ours = "kernel" if kind == "weight" else kind
            slices = [b.param_slice(f"blocks.attn.{x}.{ours}", i, shape) for x in "qkv"]
            b.add(f"{name}.attn.qkv.{kind}", (3 * d, *shape[1:]), *slices)
        b.linear(f"{name}.attn.proj", "blocks.attn.proj", d, d, i)
        for proj, c_in, c_out in (("gate_proj", d, f), ("up_proj", d, f), ("down_proj", f, d)):
            b.linear(f"{name}.mlp.{proj}", f"blocks.mlp.{proj}", c_in, c_out, i)
    b.vector("merger.ln_q.weight", "merger.ln_q.scale", d)
    b.linear("merger.mlp.0", "merger.mlp_in", joined, joined)
    b.linear("merger.mlp.2", "merger.mlp_out", joined, vision.out_hidden_size)
