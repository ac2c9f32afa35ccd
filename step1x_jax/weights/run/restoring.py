"""Arrays of a checkpoint onto devices, each process its parts; every one is compared with what the
checkpoint's description says of it."""

from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from orbax.checkpoint import v1 as ocp

from step1x_jax.weights.run import earlier
from step1x_jax.weights.run.damage import DamagedError, damage
from step1x_jax.weights.run.description import Description, check_same_arrays
from step1x_jax.weights.run.fingerprints import Arrays, describe, name_arrays, same
from step1x_jax.weights.run.folder import check_listed


def load_items(
    path: epath.Path, about: Description, wanted: dict[str, Arrays]
) -> dict[str, Arrays]:
    """Loads and verifies items of one checkpoint.

    Args:
      path: WORKDIR/checkpoints/STEP.
      about: its description.
      wanted: the items as abstract arrays with their shardings.

    Raises:
      DamagedError: anything but what was saved.
      UserError: it is whole, but of another model; or it cannot be read for now.
    """
    stored = wanted
    if about.is_earlier:
        stored = {
            item: earlier.wanted_earlier(arrays, about.arrays.get(item, {}))
            for item, arrays in wanted.items()
        }
    for item, arrays in stored.items():
        check_same_arrays(about.arrays.get(item, {}), arrays, path)
        check_listed(path / item, "_METADATA")
    with damage(path, "its arrays cannot be read"):
        loaded = ocp.load_checkpointables(path, stored)
    for item, arrays in loaded.items():
        for name, found in describe(arrays).items():
            if not same(about.arrays[item][name], found):
                raise DamagedError(f"{item}.{name} does not match its fingerprint")
    if about.is_earlier:
        return {item: earlier.from_earlier(loaded[item], arrays) for item, arrays in wanted.items()}
    return loaded


def load_state(path: epath.Path, about: Description, item: str, wanted: nnx.State) -> nnx.State:
    """One item in the dtypes that are wanted: float32 may start what is bfloat16.

    Args:
      path: WORKDIR/checkpoints/STEP.
      about: its description.
      item: which.
      wanted: shapes, dtypes and shardings.

    Raises:
      DamagedError, UserError: see `load_items`.
    """
    saved = about.arrays[item]
    there: Arrays = {}
    for name, x in name_arrays(wanted).items():
        stored = earlier.source_of(name).name if about.is_earlier else name
        dtype = jnp.dtype(saved[stored]["dtype"]) if stored in saved else x.dtype
        there[name] = jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
    arrays = load_items(path, about, {item: there})[item]
    return jax.tree.map(lambda x, w: x.astype(w.dtype), fill(wanted, arrays), wanted)


def fill(tree: Any, arrays: Arrays) -> Any:
    """The inverse of name_arrays: the tree with its arrays replaced by those of their names."""
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[n] for n in name_arrays(tree)])
