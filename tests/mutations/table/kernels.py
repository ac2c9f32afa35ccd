"""Mutations of step1x_jax/kernels/."""

from tests.mutations.suites import HOPPER
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/kernels/flash.py", "tests/models/test_remat.py"): [
        ("sums not stored", "_name_residuals", "checkpoint_name(lse, ATTENTION)", "lse"),
    ],
    ("step1x_jax/kernels/flash.py", "tests/kernels"): [
        ("every device has the whole batch", "flash_attention",
         "BATCH_AXES if b % batch_shards == 0 else None", "None"),
        ("groups in another order", "_repeat_heads",
         "jnp.repeat(x_heads, heads // x_heads.shape[2], axis=2)",
         "jnp.concatenate([x_heads] * (heads // x_heads.shape[2]), axis=2)"),
    ],
    ("step1x_jax/kernels/attention.py", "tests/kernels"): [
        ("causal ignored", "_explain_unsupported", "return 'supports no causal mask'", "pass"),
    ],
    ("step1x_jax/kernels/attention.py", "tests/test_package.py"): [
        ("the TPU's kernels are imported for all", "",
         "import os", "import os\nimport step1x_jax.kernels.attention_tpu"),
    ],
    ("step1x_jax/kernels/attention_tpu.py", "tests/kernels/test_implementations.py"): [
        ("last block without mask", "_forward_kernel", "masked=True", "masked=False"),
        ("last block forgotten", "_forward_kernel", "full_blocks * block_kv < kv_length", "False"),
        ("sums not rescaled", "_forward_kernel", "l_ref[...] * rescale", "l_ref[...]"),
        ("values not rescaled", "_forward_kernel", "acc_ref[...] * rescale", "acc_ref[...]"),
        ("first norm for all", "_select_scale",
         "jnp.where(indices < split, scales[0:1], scales[1:2])", "scales[0:1]"),
        ("rotation the other way back", "_norm_rope_backward",
         "_swap_halves(dy * rope[1])", "_swap_halves(dy) * rope[1]"),
        ("norm's mean forgotten", "_norm_rope_backward", "normed * ...", "0 * ..."),
        ("padding of the last block of keys", "_backward_kernel",
         "jnp.where(_row_indices(j * block_kv, block_kv) < kv_length, p, 0)", "p + 0"),
        ("delta forgotten", "_backward_kernel", "dp - delta_ref[:, at]", "dp"),
        ("queries' gradient of the last block", "_backward_kernel",
         "acc_ref[at, :] += _dot(ds, k, (0, 0), precision)",
         "acc_ref[at, :] = _dot(ds, k, (0, 0), precision)"),
        ("keys' gradient in base 2", "_backward_kernel", "1 / LOG2E if fused else scale", "scale"),
        ("scales of the last block", "_backward_kernel",
         "dq_scale_ref[...] = jnp.zeros_like(dq_scale_ref)", "pass"),
    ],
    ("step1x_jax/kernels/norm_rope.py", "tests/kernels"): [
        ("eps of QK-norm", "", "QK_NORM_EPS = 1e-6", "QK_NORM_EPS = 1e-5"),
        ("no maximum kept", "", "LARGEST_BOUND = 100.0", "LARGEST_BOUND = 1e9"),
        ("scales swapped", "norm_rope", "x[:, :split] * scales[0], x[:, split:] * scales[1]",
         "x[:, :split] * scales[1], x[:, split:] * scales[0]"),
    ],
    ("step1x_jax/kernels/gpu.py", HOPPER): [
        ("tiles overwritten while read", "fetch_tiles",
         "plgpu.barrier_wait(free.at[slot])", "pass"),
        ("Hopper: turns backwards", "norm_rope_tile",
         "a * cos - b * sin, b * cos + a * sin", "a * cos + b * sin, b * cos - a * sin"),
        ("Hopper: one norm for all rows", "_load_scale", "iota(shape, 0) + start", "start"),
        ("Hopper: mean of the norm's gradient", "norm_rope_tile_backward", "da - a * mean", "da"),
    ],
    ("step1x_jax/kernels/attention_gpu.py", HOPPER): [
        ("values not waited for", "_forward_kernel",
         "plgpu.barrier_wait(scratch['values_ready'].at[slot])", "pass"),
        ("Hopper: keys not masked", "_forward_kernel.compute.attend",
         "... < kv_length", "... < 1e9"),
        ("Hopper: sum not rescaled", "_forward_kernel", "denominator * rescale", "denominator"),
        ("Hopper: output over sum of weights", "_forward_kernel",
         "acc / gpu.broadcast_per_row(denominator, acc.shape)", "acc"),
        ("Hopper: sums without maximum", "_forward_kernel",
         "m + jnp.log(denominator) * LOG2E", "jnp.log(denominator) * LOG2E"),
    ],
    ("step1x_jax/kernels/attention_gpu_backward.py", HOPPER): [
        ("Hopper: gradient of invalid keys", "_dkv_kernel", "jnp.where(valid, dv, 0.0)", "dv"),
        ("Hopper: keys not masked for dq", "_dq_kernel.compute.step",
         "... < kv_length", "... < 10**9"),
        ("Hopper: keys' gradient in base 2", "_dkv_kernel",
         "1 / LOG2E if fused else softmax_scale", "softmax_scale"),
        ("Hopper: scale's gradient of both norms", "_ResidentTiles.norm_rope_backward",
         "jnp.where(first, 0.0, scale_gradient[i])", "scale_gradient[i]"),
        ("Hopper: raw rows not fetched again", "_ResidentTiles.norm_rope_backward",
         "plgpu.barrier_wait(self.reloaded)", "pass"),
    ],
    ("step1x_jax/kernels/tuning.py", "tests/kernels/test_implementations.py"): [
        ("wasteful blocks", "choose_block_size", "1.03 * least", "2 * least"),
        ("table for any number of keys", "tpu_blocks", "q_len == kv_len", "True"),
    ],
    ("step1x_jax/kernels/attention_xla.py", "tests/kernels"): [
        ("attention scale", "attention_xla", "head_dim**-0.5", "kv_len**-0.5"),
        ("one key too many", "attention_xla",
         "jnp.arange(kv_len) < kv_lengths[:, None]", "jnp.arange(kv_len) <= kv_lengths[:, None]"),
        ("softmax in bfloat16", "attention_xla",
         "logits, axis=-1", "logits.astype(v.dtype), axis=-1"),
    ],
}
