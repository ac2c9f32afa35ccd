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
        ("output read untransposed", "_Builder.part", "(1, 0) if len(piece) == 2 else (0,)",
         "(1, 0) if len(piece) == 2 and 'o_proj' not in path else tuple(range(len(piece)))"),
        ("values before keys", "_vision", "'qkv'", "'qvk'"),
    ],
    ("step1x_jax/weights/layouts/official.py", DIT): [
        ("v turned too", "qkv_parts", "'v': None", "'v': rotated"),
        ("turned the other way", "ParamSlice._turned",
         "self.rotated // 2, 2", "2, self.rotated // 2"),
        ("linear1 order", "_transformer", "*qkv_kernels, mlp_kernel", "mlp_kernel, *qkv_kernels"),
        ("linear2 order", "_transformer", "proj, mlp_out", "mlp_out, proj"),
        ("QK-norms not turned", "_Builder.head_norm", "rotated=width", ""),
    ],
    ("step1x_jax/weights/layouts/official.py", "tests/weights/test_filling.py"): [
        ("rows in the file's order", "ParamSlice.to_ours",
         "x.take(np.argsort(np.argsort(self._rows(box))), axis=0)", "x"),
    ],
}
