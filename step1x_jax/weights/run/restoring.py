"""Loads a checkpoint's arrays onto devices, each process its shards, and verifies them."""

from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from orbax.checkpoint import v1 as ocp

from step1x_jax.weights.run import earlier
from step1x_jax.weights.run.damage import DamagedError, detect_damage
from step1x_jax.weights.run.description import CheckpointDescription, check_same_arrays
from step1x_jax.weights.run.fingerprints import Arrays, describe_arrays, matches, name_arrays
from step1x_jax.weights.run.folder import check_listed


def load_items(
    path: epath.Path, description: CheckpointDescription, wanted: dict[str, Arrays]
) -> dict[str, Arrays]:
    """Load items of one checkpoint, and compare every array with the description.

    Args:
      path: WORKDIR/checkpoints/STEP.
      description: of the checkpoint.
      wanted: the items as abstract arrays with shardings.

    Raises:
      DamagedError: an array is not what was saved.
      UserError: it is undamaged, but of another model; or it cannot be read at the moment.
    """
    stored = wanted
    if description.is_earlier:
        stored = {
            item: earlier.abstract_earlier(arrays, description.arrays.get(item, {}))
            for item, arrays in wanted.items()
        }
    for item, arrays in stored.items():
        check_same_arrays(description.arrays.get(item, {}), arrays, path)
        check_listed(path / item, "_METADATA")
    with detect_damage(path, "its arrays cannot be read"):
        loaded = ocp.load_checkpointables(path, stored)
    for item, arrays in loaded.items():
        for name, found in describe_arrays(arrays).items():
            if not matches(description.arrays[item][name], found):
                raise DamagedError(f"{item}.{name} does not match its fingerprint")
    if description.is_earlier:
        return {item: earlier.from_earlier(loaded[item], arrays) for item, arrays in wanted.items()}
    return loaded


def load_state(
    path: epath.Path, description: CheckpointDescription, item: str, wanted: nnx.State
) -> nnx.State:
    """Load one item, cast to the wanted dtypes: a float32 run may start from bfloat16 parameters.

    Args:
      path: WORKDIR/checkpoints/STEP.
      description: of the checkpoint.
      item: its name.
      wanted: shapes, dtypes and shardings.

    Raises:
      DamagedError, UserError: see `load_items`.
    """
    saved = description.arrays[item]
    abstract: Arrays = {}
    for name, x in name_arrays(wanted).items():
        stored = earlier.find_origin(name).name if description.is_earlier else name
        dtype = jnp.dtype(saved[stored]["dtype"]) if stored in saved else x.dtype
        abstract[name] = jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
    arrays = load_items(path, description, {item: abstract})[item]
    return jax.tree.map(lambda x, w: x.astype(w.dtype), unflatten_arrays(wanted, arrays), wanted)


def unflatten_arrays(tree: Any, arrays: Arrays) -> Any:
    """Return the tree with its arrays replaced by those of their names; inverts `name_arrays`."""
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[n] for n in name_arrays(tree)])
