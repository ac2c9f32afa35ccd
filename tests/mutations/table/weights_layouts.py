"""Mutations of step1x_jax/weights/layouts/."""

from tests.mutations.suites import DIT, MLLM
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/weights/layouts/diffusers.py", "tests/weights/layouts/test_diffusers.py"): [
        ("diffusers: shift before scale", "_swap_halves",
         "RowRange(name, 0, theirs, half, half), RowRange(name, half, theirs, 0, half)",
         "RowRange(name, 0, theirs, 0, half), RowRange(name, half, theirs, half, half)"),
        ("diffusers: q and k swapped", "",
         "'img_attn.qkv': ('attn.to_q', 'attn.to_k', 'attn.to_v')",
         "'img_attn.qkv': ('attn.to_k', 'attn.to_q', 'attn.to_v')"),
        ("norms of the text's stream", "", "'txt_attn.norm.key_norm': ('attn.norm_added_k',)",
         "'txt_attn.norm.key_norm': ('attn.norm_added_q2',)"),
        ("names of an older draft", "",
         "'time_in.in_layer': 'time_embed.in_layer'", "'time_in.in_layer': 'time_embed.linear_1'"),
    ],
    ("step1x_jax/weights/layouts/qwen.py", MLLM): [
        ("output read untransposed", "_QwenTableBuilder.param_slice",
         "(1, 0) if len(shape) == 2 else (0,)",
         "(1, 0) if len(shape) == 2 and 'o_proj' not in path else tuple(range(len(shape)))"),
        ("values before keys", "_vision", "'qkv'", "'qvk'"),
    ],
    ("step1x_jax/weights/layouts/official.py", DIT): [
        ("v turned too", "qkv_slices", "'v': None", "'v': rope_head_dim"),
        ("turned the other way", "ParamSlice._rope_order",
         "self.rope_head_dim // 2, 2", "2, self.rope_head_dim // 2"),
        ("linear1 order", "_transformer", "*qkv_kernels, mlp_kernel", "mlp_kernel, *qkv_kernels"),
        ("linear2 order", "_transformer", "proj, mlp_out", "mlp_out, proj"),
        ("QK-norms not turned", "_TableBuilder.head_norm", "rope_head_dim=width", ""),
    ],
    ("step1x_jax/weights/layouts/official.py", "tests/weights/test_filling.py"): [
        ("rows in the file's order", "ParamSlice.to_ours",
         "x.take(np.argsort(np.argsort(self._official_order(shard))), axis=0)", "x"),
    ],
}
