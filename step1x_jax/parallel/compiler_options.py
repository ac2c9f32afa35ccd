"""The compiler's options, platform by platform: the one table, with a reason for each.

Training uses them and so does the planner. The compiler checks their names. "Seen" means in
programs compiled for TPUs (launch/compile_ahead.py), not on a clock.
"""

import jax

# platform, or kind of device, -> option -> (value, reason)
TABLE: dict[str, dict[str, tuple[bool | int | str, str]]] = {
    "tpu": {
        # Collectives run beside matmuls, as parts of fusions, instead of before them.
        "xla_tpu_enable_async_collective_fusion": (True, "the pass that does it"),
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": (True, "for the weights"),
        "xla_tpu_enable_async_collective_fusion_multiple_steps": (
            True,
            "one collective may last over several matmuls: a gather is longer than the small ones",
        ),
        "xla_tpu_overlap_compute_collective_tc": (True, "the core computes meanwhile"),
        "xla_enable_async_all_gather": (True, "gathers may start early at all"),
        "xla_tpu_prefer_async_allgather_to_allreduce": (
            True,
            "else gathers on a 3D torus become synchronous all-reduces of twice the bytes",
        ),
        "xla_tpu_enable_windowed_einsum_for_reduce_scatter": (
            False,
            "a gradient's matmul in as many parts as there are devices runs at half the speed: seen"
            " on v5p:2x4x4, where the compiler would choose so",
        ),
        "xla_tpu_enable_windowed_einsum_for_all_gather": (
            False,
            "likewise an adapter's, whose small half is gathered: a LoRA's step on v5p:2x4x4 takes"
            " 1.5 s instead of 4.3",
        ),
        "xla_enable_async_all_reduce": (True, "the gradients' sums may start early"),
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": (True, "and run beside matmuls"),
    },
    "TPU v6 lite": {
        "xla_tpu_scoped_vmem_limit_kib": (
            64 * 1024,
            "half of the fast memory for one operation instead of a quarter: larger tiles, so that"
            " a single block's matmuls take 9.5 ms instead of 11.2; compiling takes longer",
        ),
        # The gradients' sums travel by the sparse cores, beside everything else. By the core itself
        # each of them would stop it, 70 ms of a step.
        "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": (True, "by those cores"),
        "xla_tpu_enable_reduce_scatter_offload_tracing": (True, "which has to be found possible"),
        "xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": (False, "not in fusions"),
    },
}


def compiler_options(device: jax.Device) -> dict[str, bool | int | str]:
    """The options for devices of this kind, for jit(compiler_options=...); none for CPUs, GPUs."""
    options = TABLE.get(device.platform, {}) | TABLE.get(device.device_kind, {})
    return {name: value for name, (value, _) in options.items()}
