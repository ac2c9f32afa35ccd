"""Speed and memory of devices, attached or not."""

import math
from typing import Any

import jax

from step1x_jax.parallel.described_gpus import GPUS, USABLE_FRACTION

GIB = 2**30

# Bytes of HBM that the compiler lets a program use, by JAX's name of the TPU.
HBM = {"TPU v5": 95.74 * GIB, "TPU v5 lite": 15.75 * GIB, "TPU v6 lite": 31.25 * GIB}


# Published peak of dense bfloat16 FLOP/s, by a part of the device's name.
PEAK_FLOPS = {
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "H100": 989e12,  # SXM
    "H200": 989e12,
    "A100": 312e12,
}


def get_peak_flops(device: jax.Device) -> float | None:
    """Return the peak bfloat16 FLOP/s of a device, or None if unknown."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device.device_kind), None)


def get_memory_bytes(device: jax.Device) -> float | None:
    """Return the bytes that a program may use on a device, or None if unknown."""
    if device.device_kind in HBM:
        return HBM[device.device_kind]
    if device.platform != "gpu":
        return None
    try:
        stats = device.memory_stats()
    except jax.errors.JaxRuntimeError:  # a described device, not attached
        described = [gpu for gpu in GPUS.values() if gpu.name == device.device_kind]
        return USABLE_FRACTION * described[0].memory_bytes if described else None
    return float(stats["bytes_limit"]) if stats else None


def bytes_per_device(abstract: Any) -> float:
    """Return the bytes per device of a tree of ShapeDtypeStructs with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(abstract)
    )
