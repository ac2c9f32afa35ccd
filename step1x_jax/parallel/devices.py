"""What a device can do and hold, here or not."""

import math
from typing import Any

import jax

from step1x_jax.parallel.described_gpus import GPUS, USABLE

GIB = 2**30

# TPUs by kind, as JAX names them: what the compiler allows a program to use
HBM = {"TPU v5": 95.74 * GIB, "TPU v5 lite": 15.75 * GIB, "TPU v6 lite": 31.25 * GIB}


# Operations a second on bfloat16, dense, as published: by the part of its name that tells a kind.
PEAK = {
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "H100": 989e12,  # SXM
    "H200": 989e12,
    "A100": 312e12,
}


def peak_of(device: jax.Device) -> float | None:
    """Operations a second of a device; None where it is not known."""
    return next((peak for name, peak in PEAK.items() if name in device.device_kind), None)


def memory_of(device: jax.Device) -> float | None:
    """Bytes; None where nobody says."""
    if device.device_kind in HBM:
        return HBM[device.device_kind]
    if device.platform != "gpu":
        return None
    try:
        stats = device.memory_stats()
    except jax.errors.JaxRuntimeError:  # one that is only described
        described = [gpu for gpu in GPUS.values() if gpu.name == device.device_kind]
        return USABLE * described[0].memory_bytes if described else None
    return float(stats["bytes_limit"]) if stats else None


def bytes_per_device(abstract: Any) -> float:
    """What a tree of ShapeDtypeStructs with shardings takes on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(abstract)
    )
