"""The platform on which a program that is being traced will run."""

import jax


def platform() -> str:
    """Return "tpu", "gpu" or "cpu": the ambient mesh's platform, or the default backend's.

    The devices of a mesh need not be attached: programs for TPUs are compiled ahead of time.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def device_kind() -> str:
    """Return the kind of device by JAX's name: "TPU v5 lite", "NVIDIA H200", ..."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind
