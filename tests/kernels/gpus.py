"""GPUs that need not be attached: to lower for, and with JAX's CUDA plugin to compile for."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

AXES = ("data", "fsdp", "sequence", "tensor")
TYPES = (AxisType.Auto,) * 4


def abstract_mesh(kind="NVIDIA H200", sizes=(1, 1, 1, 1)):
    """Returns a mesh of abstract devices, for tracing and lowering."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="cuda")
    return AbstractMesh(sizes, AXES, axis_types=TYPES, abstract_device=device)


def h100_mesh():
    """Returns a mesh of one described H100, for compiling."""
    pytest.importorskip("jax_cuda13_plugin", reason="needs JAX's CUDA plugin and nvidia-cuda-nvcc")
    from step1x_jax.parallel.described_gpus import gpu_devices

    return jax.make_mesh((1,) * 4, AXES, axis_types=TYPES, devices=gpu_devices("h100", 1))
