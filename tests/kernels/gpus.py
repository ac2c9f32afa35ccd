"""GPUs that are not here: to lower for, and to compile for where JAX's CUDA plugin is installed."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

AXES = ("data", "fsdp", "sequence", "tensor")
TYPES = (AxisType.Auto,) * 4
# What XLA asks a device for, of an H100 SXM; cuDNN's version decides nothing here.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84978434048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def abstract_mesh(kind="NVIDIA H200", sizes=(1, 1, 1, 1)):
    """A mesh of devices that are good for tracing and lowering."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="cuda")
    return AbstractMesh(sizes, AXES, axis_types=TYPES, abstract_device=device)


def h100_mesh():
    """A mesh of one device, good for compiling, too."""
    pytest.importorskip(
        "jax_cuda13_plugin", reason="needs JAX's CUDA 13 plugin and nvidia-cuda-nvcc"
    )
    from jax.experimental import topologies

    jax.devices()
    # the name of the topology is not read, its shape is
    described = {"topology": "1x1x1", "target_config": H100}
    devices = topologies.get_topology_desc("", platform="cuda", **described).devices
    return jax.make_mesh((1,) * 4, AXES, axis_types=TYPES, devices=devices)
