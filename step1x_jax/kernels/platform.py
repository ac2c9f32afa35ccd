"""Where a program that is being traced will run."""

import jax


def platform() -> str:
    """The ambient mesh's platform ("tpu", "gpu", "cpu"), without one that of the default backend.

    A mesh may be of devices that are not here: programs for TPUs are compiled ahead of time.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def device_kind() -> str:
    """The kind of device, as JAX names it: "TPU v5 lite", "NVIDIA H200", ..."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind
