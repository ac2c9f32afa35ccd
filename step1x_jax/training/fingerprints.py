"""What a checkpoint says of its arrays: shape, dtype, and a fingerprint of every bit."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.convert.filling import Keep, Path
from step1x_jax.convert.keys import dotted

Arrays = dict[str, Any]  # name of the parameter (transformer.img_in.kernel) -> array
About = dict[str, dict[str, Any]]  # name -> shape, dtype, fingerprint


def name_arrays(tree: Any) -> Arrays:
    """A tree's arrays by name: the path of modules and attributes, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {n.removesuffix(".value"): x for n, (_, x) in zip(names, leaves, strict=True)}


@jax.jit
def fingerprints(arrays: Arrays) -> Arrays:
    """The sum of each array's bits, read as unsigned integers, modulo 2^32.

    Integer sums have no rounding and no order: the number does not depend on the sharding.
    """

    def fingerprint(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return jax.tree.map(fingerprint, arrays)


def fingerprint_of(array: np.ndarray) -> int:
    """The same of an array on the host."""
    bits = array.reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
    return int(bits.sum(dtype=np.uint32))


def describe(arrays: Arrays) -> About:
    """Shape, dtype and fingerprint of each array, as JSON values."""
    bits = jax.device_get(fingerprints(arrays))
    return {
        name: {
            "shape": list(x.shape),
            "dtype": str(x.dtype),
            "fingerprint": int(bits[name]),
        }
        for name, x in arrays.items()
    }


def described(keep: Keep) -> tuple[About, Keep]:
    """A description, and `keep` so changed that each parameter which it is given is in it."""
    about: About = {}

    def describe_and_keep(path: Path, parameter: nnx.Variable) -> Mapping[Path, nnx.Variable]:
        array = parameter.get_value()
        about[dotted(path)] = describe({"": array})[""]  # compiled once for a shape
        return keep(path, parameter)

    return about, describe_and_keep


def checksum(about: dict[str, Any]) -> int:
    """Guards the description itself."""
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())
