"""What a checkpoint says of its arrays: shape, dtype, and a fingerprint of every bit."""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from msgspec import Meta

from step1x_jax.weights.filling import Keep, Path
from step1x_jax.weights.layouts.official import dotted

Arrays = dict[str, Any]  # name of the parameter (transformer.img_in.kernel) -> array
Fingerprint = list[Annotated[int, Meta(ge=0, lt=1 << 32)]]
CHUNK = 1 << 16  # numbers that the host hashes at once: they stay in its cache
_SPREAD = np.uint32(0x9E3779B1)  # from place to place
_MURMUR = ((16, np.uint32(0x85EBCA6B)), (13, np.uint32(0xC2B2AE35)))  # MurmurHash3's finalizer
_LAST_SHIFT = 16


class AboutArray(TypedDict):
    """What is noted of one array; `fingerprint` is explained at `fingerprints`."""

    shape: list[Annotated[int, Meta(ge=0, lt=1 << 40)]]
    dtype: str
    fingerprint: Fingerprint


About = dict[str, AboutArray]  # by name


def name_arrays(tree: Any) -> Arrays:
    """A tree's arrays by name: the path of modules and attributes, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {n.removesuffix(".value"): x for n, (_, x) in zip(names, leaves, strict=True)}


@jax.jit
def fingerprints(arrays: Arrays) -> Arrays:
    """Of each array two sums over its numbers, modulo 2^32: (2,) uint32.

    The first is of their bits, read as unsigned integers. It does not notice numbers that change
    places, or two changes that cancel; the second, of hashes of bits and place, does.

    Integer sums have no rounding and no order: they do not depend on the sharding, and of an array
    that is split nothing but the sums travels between devices.
    """

    def fingerprint(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
        bits = bits.astype(jnp.uint32)
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, stride in enumerate(_strides(x.shape)):
            along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
            place += along * np.uint32(stride % 2**32)
        both, zero = (bits, _hash(bits, place)), np.uint32(0)
        # as one reduction: of two, XLA on CPUs would write what they sum to memory
        return jnp.stack(jax.lax.reduce(both, (zero, zero), _add_both, tuple(range(x.ndim))))

    return jax.tree.map(fingerprint, arrays)


def _add_both(a: Any, b: Any) -> Any:
    return a[0] + b[0], a[1] + b[1]


def _strides(shape: Sequence[int]) -> list[int]:
    """How far apart neighbours along each axis are in row-major order."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _hash(bits: jax.Array, place: jax.Array) -> jax.Array:
    """Hashes uint32 arrays by the finalizer of MurmurHash3.

    At one place it is a permutation of the bits, so that a single change always changes the sum;
    and it is far from linear, so that several changes cancel once in 2^32 only.
    """
    x = bits ^ (place * _SPREAD)
    for shift, factor in _MURMUR:
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> _LAST_SHIFT)


def fingerprint_of(
    block: np.ndarray, start: Sequence[int] | None = None, shape: Sequence[int] | None = None
) -> Fingerprint:
    """The same of an array on the host; or of a block of it, what that adds to the array's.

    Args:
      block: the array or a part of it.
      start: index of the block's first number in the array; None: the array's first.
      shape: of the array; None: that of the block.
    """
    shape = block.shape if shape is None else tuple(shape)
    first = sum(i * n for i, n in zip(start or (), _strides(shape), strict=False))
    bits = block.reshape(-1).view(f"uint{8 * block.dtype.itemsize}").reshape(block.shape)
    return _sums(bits, first, shape)


def _sums(bits: np.ndarray, first: int, shape: Sequence[int]) -> Fingerprint:
    """Of a block whose first number is the array's number `first`."""
    whole = [part == size for part, size in zip(bits.shape, shape, strict=True)]
    if all(whole[1:]):
        return _sums_of_rows(bits.reshape(1, -1), first, 0)
    stride = _strides(shape)[0]
    if all(whole[2:]):  # its rows are apart in the array
        return _sums_of_rows(bits.reshape(len(bits), -1), first, stride)
    return add(*(_sums(x, first + i * stride, shape[1:]) for i, x in enumerate(bits)))


def _sums_of_rows(rows: np.ndarray, first: int, stride: int) -> Fingerprint:
    """Of rows whose first numbers are the array's numbers first, first + stride, ..."""
    width = min(max(rows.shape[1], 1), CHUNK)
    height = min(len(rows), CHUNK // width)
    places = np.arange(height)[:, None] * stride + np.arange(width)
    steps = places.astype(np.uint32) * _SPREAD
    # The same memory for all chunks: new memory would take as long as the arithmetic.
    numbers, hashes, shifted = (np.empty(steps.shape, np.uint32) for _ in range(3))
    total = [0, 0]
    for i in range(0, len(rows), height):
        for j in range(0, rows.shape[1], width):
            chunk = rows[i : i + height, j : j + width]
            here = tuple(map(slice, chunk.shape))
            n, x, y = numbers[here], hashes[here], shifted[here]
            n[...] = chunk
            begin = (first + i * stride + j) * int(_SPREAD)
            np.add(steps[here], np.uint32(begin % 2**32), out=x)
            x ^= n
            for shift, factor in _MURMUR:  # as _hash, in place
                x ^= np.right_shift(x, shift, out=y)
                x *= factor
            x ^= np.right_shift(x, _LAST_SHIFT, out=y)
            total = add(total, [int(part.sum(dtype=np.uint32)) for part in (n, x)])
    return total


def add(*parts: Fingerprint) -> Fingerprint:
    """The fingerprint of an array from what its blocks add to it."""
    return [sum(numbers) % 2**32 for numbers in zip(*parts, strict=True)]


def same(saved: AboutArray, found: AboutArray) -> bool:
    """Whether two descriptions agree; one of schema 2 has the first number of a fingerprint."""
    bits = zip(saved["fingerprint"], found["fingerprint"], strict=False)
    return summary(saved) == summary(found) and all(a == b for a, b in bits)


def summary(about: AboutArray) -> str:
    """Dtype and shape in words: float32[16, 32]."""
    return f"{about['dtype']}{list(about['shape'])}"


def describe(arrays: Arrays) -> About:
    """Shape, dtype and fingerprint of each array."""
    sums = jax.device_get(fingerprints(arrays))
    return {
        name: {
            "shape": list(x.shape),
            "dtype": str(x.dtype),
            "fingerprint": [int(number) for number in sums[name]],
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
