"""Mutations of step1x_jax/kernels/."""

from tests.mutations.suites import HOPPER
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/kernels/flash.py", "tests/models/test_remat.py"): [
        ("sums not stored", "_named", "checkpoint_name(lse, ATTENTION)", "lse"),
    ],
    ("step1x_jax/kernels/flash.py", "tests/kernels"): [
        ("every device has the whole batch", "flash_attention",
         "BATCH_AXES if b % parts == 0 else None", "None"),
        ("groups in another order", "_repeat_heads",
         "jnp.repeat(apart, heads // apart.shape[2], axis=2)",
         "jnp.concatenate([apart] * (heads // apart.shape[2]), axis=2)"),
    ],
    ("step1x_jax/kernels/attention.py", "tests/kernels"): [
        ("causal ignored", "_reason_against", "return 'has no causal mask'", "pass"),
    ],
    ("step1x_jax/kernels/attention.py", "tests/test_package.py"): [
        ("the TPU's kernels are imported for all", "",
         "import os", "import os\nimport step1x_jax.kernels.attention_tpu"),
    ],
    ("step1x_jax/kernels/attention_tpu.py", "tests/kernels/test_implementations.py"): [
        ("last chunk without mask", "_forward_kernel", "masked=True", "masked=False"),
        ("last chunk forgotten", "_forward_kernel", "whole * chunk < length", "False"),
        ("sums not rescaled", "_forward_kernel", "l_ref[...] * rescale", "l_ref[...]"),
        ("values not rescaled", "_forward_kernel", "acc_ref[...] * rescale", "acc_ref[...]"),
        ("first norm for all", "_scale_of",
         "jnp.where(rows < split, scales[0:1], scales[1:2])", "scales[0:1]"),
        ("rotation the other way back", "_prologue_backward",
         "_half_turn(dy * rope[1])", "_half_turn(dy) * rope[1]"),
        ("norm's mean forgotten", "_prologue_backward", "normed * ...", "0 * ..."),
        ("padding of the last block of keys", "_backward_kernel",
         "jnp.where(_rows(j * block, block) < length, p, 0)", "p + 0"),
        ("delta forgotten", "_backward_kernel", "dp - delta_ref[:, at]", "dp"),
        ("queries' gradient of the last block", "_backward_kernel",
         "acc_ref[at, :] += _dot(ds, k, (0, 0), precision)",
         "acc_ref[at, :] = _dot(ds, k, (0, 0), precision)"),
        ("keys' gradient in base 2", "_backward_kernel", "1 / LOG2E if fused else scale", "scale"),
        ("scales of the last block", "_backward_kernel",
         "dqs_ref[...] = jnp.zeros_like(dqs_ref)", "pass"),
    ],
    ("step1x_jax/kernels/norm_rope.py", "tests/kernels"): [
        ("eps of QK-norm", "", "QK_NORM_EPS = 1e-6", "QK_NORM_EPS = 1e-5"),
        ("no maximum kept", "", "LARGEST_BOUND = 100.0", "LARGEST_BOUND = 1e9"),
        ("scales swapped", "norm_rope", "x[:, :split] * scales[0], x[:, split:] * scales[1]",
         "x[:, :split] * scales[1], x[:, split:] * scales[0]"),
    ],
    ("step1x_jax/kernels/gpu.py", HOPPER): [
        ("tiles overwritten while read", "fetch", "plgpu.barrier_wait(free.at[slot])", "pass"),
        ("Hopper: turns backwards", "norm_rope_tile",
         "a * cos - b * sin, b * cos + a * sin", "a * cos + b * sin, b * cos - a * sin"),
        ("Hopper: one norm for all rows", "_scale", "numbers(shape, 0) + start", "start"),
        ("Hopper: mean of the norm's gradient", "norm_rope_tile_backward", "da - a * mean", "da"),
    ],
    ("step1x_jax/kernels/attention_gpu.py", HOPPER): [
        ("values not waited for", "_forward_kernel",
         "plgpu.barrier_wait(scratch['values_here'].at[slot])", "pass"),
        ("Hopper: keys not masked", "_forward_kernel.compute.attend", "... < length", "... < 1e9"),
        ("Hopper: sum not rescaled", "_forward_kernel", "total * rescale", "total"),
        ("Hopper: output over sum of weights", "_forward_kernel",
         "acc / gpu.by_rows(total, acc.shape)", "acc"),
        ("Hopper: sums without maximum", "_forward_kernel",
         "m + jnp.log(total) * LOG2E", "jnp.log(total) * LOG2E"),
    ],
    ("step1x_jax/kernels/attention_gpu_backward.py", HOPPER): [
        ("Hopper: gradient of invalid keys", "_dkv_kernel", "jnp.where(valid, dv, 0.0)", "dv"),
        ("Hopper: keys not masked for dq", "_dq_kernel.compute.step",
         "... < length", "... < 10**9"),
        ("Hopper: keys' gradient in base 2", "_dkv_kernel",
         "1 / LOG2E if fused else softmax_scale", "softmax_scale"),
        ("Hopper: scale's gradient of both norms", "_Staying.turn_back",
         "jnp.where(first, 0.0, of_scale[i])", "of_scale[i]"),
        ("Hopper: raw rows not fetched again", "_Staying.turn_back",
         "plgpu.barrier_wait(self.again)", "pass"),
    ],
    ("step1x_jax/kernels/tuning.py", "tests/kernels/test_implementations.py"): [
        ("wasteful chunks", "chunk_size", "1.03 * least", "2 * least"),
        ("table for any number of keys", "tpu_blocks", "length == size", "True"),
    ],
    ("step1x_jax/kernels/attention_xla.py", "tests/kernels"): [
        ("attention scale", "attention_xla", "width**-0.5", "size**-0.5"),
        ("one key too many", "attention_xla",
         "jnp.arange(size) < kv_lengths[:, None]", "jnp.arange(size) <= kv_lengths[:, None]"),
        ("softmax in bfloat16", "attention_xla",
         "logits, axis=-1", "logits.astype(v.dtype), axis=-1"),
    ],
}
