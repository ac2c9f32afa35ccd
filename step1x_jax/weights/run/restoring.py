"""Arrays of a checkpoint onto devices, each process its parts; every one is compared with what the
checkpoint's description says of it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from orbax.checkpoint import v1 as ocp

from step1x_jax.weights.run.damage import DamagedError, damage
from step1x_jax.weights.run.description import check_same_arrays
from step1x_jax.weights.run.fingerprints import About, Arrays, describe, name_arrays, same
from step1x_jax.weights.run.folder import check_listed


def load_items(
    path: epath.Path, saved: Mapping[str, About], wanted: dict[str, Arrays]
) -> dict[str, Arrays]:
    """Loads and verifies items of one checkpoint.

    Args:
      path: WORKDIR/checkpoints/STEP.
      saved: what its description says of each item's arrays.
      wanted: the items as abstract arrays with their shardings.

    Raises:
      DamagedError: anything but what was saved.
      UserError: it is whole, but of another model; or it cannot be read for now.
    """
    for item, arrays in wanted.items():
        check_same_arrays(saved.get(item, {}), arrays, path)
        check_listed(path / item, "_METADATA")
    with damage(path, "its arrays cannot be read"):
        loaded = ocp.load_checkpointables(path, wanted)
    for item, arrays in loaded.items():
        for name, found in describe(arrays).items():
            if not same(saved[item][name], found):
                raise DamagedError(f"{item}.{name} does not match its fingerprint")
    return loaded


def load_state(
    path: epath.Path, saved: Mapping[str, About], item: str, wanted: nnx.State
) -> nnx.State:
    """One item in the dtypes that are wanted: float32 may start what is bfloat16.

    Args:
      path: WORKDIR/checkpoints/STEP.
      saved: what its description says of each item's arrays.
      item: which.
      wanted: shapes, dtypes and shardings.

    Raises:
      DamagedError, UserError: see `load_items`.
    """
    about = saved[item]
    there = {
        name: jax.ShapeDtypeStruct(
            x.shape, jnp.dtype(about[name]["dtype"]) if name in about else x.dtype,
            sharding=x.sharding,
        )
        for name, x in name_arrays(wanted).items()
    }  # fmt: skip
    arrays = load_items(path, saved, {item: there})[item]
    return jax.tree.map(lambda x, w: x.astype(w.dtype), fill(wanted, arrays), wanted)


def fill(tree: Any, arrays: Arrays) -> Any:
    """The inverse of name_arrays: the tree with its arrays replaced by those of their names."""
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[n] for n in name_arrays(tree)])
