"""The names of Qwen2.5-VL's tensors, and where ours lie in them.

They come in two generations (model.layers..., visual... and, since transformers 4.52,
model.language_model..., model.visual...).

Legend: D width, F mlp width, H heads, G key/value heads, K head width.
"""

import math
from collections.abc import Callable

from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.weights.layouts.official import Entry, Part, Table

OLD_PREFIXES = ("model.", "visual.")  # of language model and vision tower
NEW_PREFIXES = ("model.language_model.", "model.visual.")


def mllm_table(config: MLLMConfig, *, newer: bool) -> Table:
    """Name in the file -> entry, for these sizes and one of the two generations of names."""
    language, vision = NEW_PREFIXES if newer else OLD_PREFIXES
    table: Table = {}
    _language(_adder(table, language, "language_model."), config)
    _vision(_adder(table, vision, "visual."), config)
    return table


Add = Callable[..., None]
# How axes of the file's kernels go into ours.
LINEAR = (1, 0)  # (out, in) -> (in, out)
TO_HEADS = (2, 0, 1)  # (H, K, D) -> (D, H, K)
FROM_HEADS = (1, 2, 0)  # (D, H, K) -> (H, K, D)
QKV = (0, 3, 1, 2)  # (3, H, K, D) -> (3, D, H, K)


def _adder(table: Table, prefix: str, our_prefix: str) -> Add:
    """A function that adds one tensor (name, its shape) <-> (our path, layer).

    `unfolded` takes joined axes of the file's shape apart, `order` transposes these into ours.
    """

    def add(
        name: str,
        shape: tuple[int, ...],
        path: str,
        layer: int | None = None,
        unfolded: tuple[int, ...] | None = None,
        order: tuple[int, ...] | None = None,
    ) -> None:
        unfolded = unfolded or shape
        part = Part(our_prefix + path, layer, unfolded, order or tuple(range(len(unfolded))))
        table[prefix + name] = Entry(prefix + name, shape, (part,))

    return add


def _language(add: Add, config: MLLMConfig) -> None:
    language = config.language
    d, f, k = language.hidden_size, language.intermediate_size, language.head_dim
    h, g = language.num_attention_heads, language.num_key_value_heads
    add("embed_tokens.weight", (language.vocab_size, d), "embed_tokens")
    add("norm.weight", (d,), "norm.scale")
    for i in range(language.num_hidden_layers):
        name = f"layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(f"{name}.{norm}.weight", (d,), f"layers.{norm}.scale", i)
        for proj, heads in (("q_proj", h), ("k_proj", g), ("v_proj", g)):
            official, ours = f"{name}.self_attn.{proj}", f"layers.self_attn.{proj}"
            kernel = (heads, k, d)
            add(f"{official}.weight", (heads * k, d), f"{ours}.kernel", i, kernel, TO_HEADS)
            add(f"{official}.bias", (heads * k,), f"{ours}.bias", i, (heads, k))
        official, ours = f"{name}.self_attn.o_proj", "layers.self_attn.o_proj"
        kernel = (d, h, k)
        add(f"{official}.weight", (d, h * k), f"{ours}.kernel", i, kernel, FROM_HEADS)
        for proj, shape in (("gate_proj", (f, d)), ("up_proj", (f, d)), ("down_proj", (d, f))):
            path = f"layers.mlp.{proj}.kernel"
            add(f"{name}.mlp.{proj}.weight", shape, path, i, order=LINEAR)


def _vision(add: Add, config: MLLMConfig) -> None:
    vision = config.vision
    d, f = vision.hidden_size, vision.intermediate_size
    h, k = vision.num_heads, vision.head_dim
    size, joined = vision.patch_size, d * vision.merge_unit
    patch = (d, vision.in_channels, vision.temporal_patch_size, size, size)
    flat_patch = (d, math.prod(patch[1:]))  # the processor flattens patches in the same order
    add("patch_embed.proj.weight", patch, "patch_embed.kernel", None, flat_patch, LINEAR)

    def linear(name: str, path: str, c_in: int, c_out: int, layer: int | None = None) -> None:
        add(f"{name}.weight", (c_out, c_in), f"{path}.kernel", layer, order=LINEAR)
        add(f"{name}.bias", (c_out,), f"{path}.bias", layer)

    for i in range(vision.depth):
        name = f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            add(f"{name}.{norm}.weight", (d,), f"blocks.{norm}.scale", i)
        official, ours = f"{name}.attn", "blocks.attn"
        add(f"{official}.qkv.weight", (3 * d, d), f"{ours}.qkv.kernel", i, (3, h, k, d), QKV)
        add(f"{official}.qkv.bias", (3 * d,), f"{ours}.qkv.bias", i, (3, h, k))
        add(f"{official}.proj.weight", (d, d), f"{ours}.proj.kernel", i, (d, h, k), FROM_HEADS)
        add(f"{official}.proj.bias", (d,), f"{ours}.proj.bias", i)
        for proj, c_in, c_out in (("gate_proj", d, f), ("up_proj", d, f), ("down_proj", f, d)):
            linear(f"{name}.mlp.{proj}", f"blocks.mlp.{proj}", c_in, c_out, i)
    add("merger.ln_q.weight", (d,), "merger.ln_q.scale")
    linear("merger.mlp.0", "merger.mlp_in", joined, joined)
    linear("merger.mlp.2", "merger.mlp_out", joined, vision.out_hidden_size)
