"""Frozen parameters that stay in the host's memory and are on the devices only while they are used.

For devices that do not hold all models of an edit at once. The host keeps its copy, so nothing ever
travels back.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from step1x_jax.parallel.rules import shardings


def all_on_host(params: Any) -> Any:
    """For every array of a tree the place to be loaded to, in the host's memory."""
    host = SingleDeviceSharding(jax.devices("cpu")[0])
    return jax.tree.map(lambda _: host, params)


@contextlib.contextmanager
def borrowed(params: Any, mesh: Mesh | None) -> Iterator[Any]:
    """The same tree on the devices, for the time of a `with` block.

    Args:
      params: of a model, in the host's memory.
      mesh: on which they are to lie, as parallel/rules.py says; None: on the default device.
    """
    places = jax.devices()[0] if mesh is None else shardings(params, mesh)
    if jax.default_backend() == "cpu":  # the devices' memory is the host's: nothing would be copied
        params = jax.tree.map(jnp.copy, params)
    copies = jax.device_put(params, places)
    try:
        yield copies
    finally:
        for x in jax.tree.leaves(copies):
            x.delete()
