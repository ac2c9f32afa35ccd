"""Descriptions of GPUs, to compile for GPUs that are not attached.

Needs JAX's CUDA plugin, which comes with `jax[cuda13]`. Of CUDA only the assembler
(nvidia-cuda-nvcc) is used.
"""

from typing import NamedTuple

import jax

from step1x_jax.errors import UserError


class Gpu(NamedTuple):
    """The properties of a GPU that differ between kinds, as XLA needs them."""

    name: str
    memory_bytes: int  # of which a program may use USABLE_FRACTION
    bandwidth: int  # bytes per second
    l2_bytes: int


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84978434048, 3352320000000, 52428800),
    "h200": Gpu("NVIDIA H200", 150754820096, 4800000000000, 62914560),
}
USABLE_FRACTION = 0.94  # of the memory, as set in launch/gpu.sh
DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth} l2_cache_size: {gpu.l2_bytes}
  device_memory_size: {gpu.memory_bytes}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: 9 minor: 0 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{gpu.name}"
"""


def gpu_devices(kind: str, count: int) -> list[jax.Device]:
    """Return `count` GPUs of one machine, which can only be compiled for.

    Args:
      kind: a key of GPUS.
      count: number of GPUs.

    Raises:
      UserError: the kind is unknown, or JAX's CUDA plugin is not installed.
    """
    if kind not in GPUS:
        raise UserError(f"--gpu={kind} is not known; use one of {', '.join(GPUS)}.")
    from jax.experimental import topologies

    described = DESCRIPTION.format(gpu=GPUS[kind])
    shape = f"1x1x{count}"
    try:
        found = topologies.get_topology_desc(
            "", platform="cuda", topology=shape, target_config=described
        )
    except Exception as e:  # the exception type depends on what is missing
        reason = str(e).splitlines()[0]
        raise UserError(
            f"compiling for GPUs needs JAX's CUDA plugin ({reason}): pip install"
            " --no-deps jax-cuda13-plugin jax-cuda13-pjrt of JAX's version, nvidia-cuda-nvcc,"
            " nvidia-nvvm, nvidia-cuda-crt and nvidia-cuda-runtime (no GPU is needed)."
        ) from e
    return list(found.devices)
