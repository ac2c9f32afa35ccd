"""Offloading of frozen parameters: kept in the host's memory, copied to devices for use.

For devices that cannot hold all models of an edit at once. The host keeps its copy, so nothing is
transferred back.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from step1x_jax.parallel.rules import shardings


def host_shardings(params: Any) -> Any:
    """Return the sharding in the host's memory for every array of a tree."""
    host = SingleDeviceSharding(jax.devices("cpu")[0])
    return jax.tree.map(lambda _: host, params)


@contextlib.contextmanager
def on_device(params: Any, mesh: Mesh | None) -> Iterator[Any]:
    """Yield a copy of the tree on the devices, which is deleted at the end of the `with` block.

    Args:
      params: a model's parameters, in the host's memory.
      mesh: the mesh to shard them over, by parallel/rules.py; None: the default device.
    """
    target = jax.devices()[0] if mesh is None else shardings(params, mesh)
    if (
        jax.default_backend() == "cpu"
    ):  # the device's memory is the host's, so device_put would not copy
        params = jax.tree.map(jnp.copy, params)
    copies = jax.device_put(params, target)
    try:
        yield copies
    finally:
        for x in jax.tree.leaves(copies):
            x.delete()
