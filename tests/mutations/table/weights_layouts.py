"""Mutations of step1x_jax/weights/layouts/."""

from tests.mutations.suites import DIT, MLLM
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/weights/layouts/diffusers.py", "tests/weights/layouts/test_diffusers.py"): [
        ("diffusers: shift before scale", "_swapped",
         "Move(name, 0, theirs, half, half), Move(name, half, theirs, 0, half)",
         "Move(name, 0, theirs, 0, half), Move(name, half, theirs, half, half)"),
        ("diffusers: q and k swapped", "",
         "'img_attn.qkv': ('attn.to_q', 'attn.to_k', 'attn.to_v')",
         "'img_attn.qkv': ('attn.to_k', 'attn.to_q', 'attn.to_v')"),
        ("norms of the text's stream", "", "'txt_attn.norm.key_norm': ('attn.norm_added_k',)",
         "'txt_attn.norm.key_norm': ('attn.norm_added_q2',)"),
        ("names of an older draft", "",
         "'time_in.in_layer': 'time_embed.in_layer'", "'time_in.in_layer': 'time_embed.linear_1'"),
    ],
    ("step1x_jax/weights/layouts/qwen.py", MLLM): [
        ("heads inside out", "_language", "kernel, TO_HEADS", "(k, heads, d), (2, 1, 0)"),
        ("heads outside in", "_language", "kernel, FROM_HEADS", "(d, k, h), (2, 1, 0)"),
    ],
    ("step1x_jax/weights/layouts/official.py", DIT): [
        ("v turned too", "Part._turn", "x[2:]", "turned[2:]"),
        ("turned the other way", "Part._turn",
         "np.argsort(index) if inverse else index", "index if inverse else np.argsort(index)"),
        ("linear1 order", "_transformer", "qkv_kernel, mlp_kernel", "mlp_kernel, qkv_kernel"),
        ("linear2 order", "_transformer", "proj, mlp_out", "mlp_out, proj"),
        ("QK-norms not turned", "_Builder.head_norm", "rotated=0", ""),
    ],
    ("step1x_jax/weights/layouts/official.py", "tests/weights/test_filling.py"): [
        ("pairs cut before RoPE's turn", "Part._cuts", "self.rotated", "None"),
    ],
}
