"""Compiler options by platform, in one table with a reason for each.

Training and the planner both use them. The compiler checks their names. "Observed" means in
programs compiled for TPUs (launch/compile_ahead.py), not in measured times.
"""

import jax

# platform or kind of device -> option -> (value, reason)
TABLE: dict[str, dict[str, tuple[bool | int | str, str]]] = {
    "tpu": {
        # Collectives overlap with matmuls, as parts of fusions, instead of running before them.
        "xla_tpu_enable_async_collective_fusion": (True, "enables the pass that does this"),
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": (True, "for gathers of weights"),
        "xla_tpu_enable_async_collective_fusion_multiple_steps": (
            True,
            "one collective may overlap with several matmuls: a gather may take longer than one",
        ),
        "xla_tpu_overlap_compute_collective_tc": (
            True,
            "the tensor core computes during a collective",
        ),
        "xla_enable_async_all_gather": (True, "allows gathers to start early"),
        "xla_tpu_prefer_async_allgather_to_allreduce": (
            True,
            "otherwise gathers on a 3D torus become synchronous all-reduces of twice the bytes",
        ),
        "xla_tpu_enable_windowed_einsum_for_reduce_scatter": (
            False,
            "splitting a gradient's matmul into one part per device halves its speed: observed on"
            " v5p:2x4x4, where it is the compiler's default",
        ),
        "xla_tpu_enable_windowed_einsum_for_all_gather": (
            False,
            "likewise for adapters, of which a small matrix is gathered: a LoRA step on v5p:2x4x4"
            " takes 1.5 s instead of 4.3 s",
        ),
        "xla_enable_async_all_reduce": (True, "allows all-reduces of gradients to start early"),
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": (
            True,
            "overlaps them with matmuls",
        ),
    },
    "TPU v6 lite": {
        "xla_tpu_scoped_vmem_limit_kib": (
            64 * 1024,
            "half of VMEM per operation instead of a quarter allows larger tiles: the matmuls of"
            " a single block take 9.5 ms instead of 11.2 ms; compiling takes longer",
        ),
        # Reduce-scatters of gradients run on the sparse cores, in parallel to everything else. On
        # the tensor core they would block it for 70 ms per step.
        "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": (
            True,
            "runs them on the sparse cores",
        ),
        "xla_tpu_enable_reduce_scatter_offload_tracing": (
            True,
            "needed to detect where that is possible",
        ),
        "xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": (
            False,
            "not in fusions of the tensor core",
        ),
    },
}


def compiler_options(device: jax.Device) -> dict[str, bool | int | str]:
    """Return the options of a device for jit(compiler_options=...); none for CPUs and GPUs."""
    options = TABLE.get(device.platform, {}) | TABLE.get(device.device_kind, {})
    return {name: value for name, (value, _) in options.items()}
