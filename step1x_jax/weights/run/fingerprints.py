"""Shape, dtype and fingerprint of arrays, as a checkpoint's description stores them."""

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

from step1x_jax.weights.filling import Path, Transform
from step1x_jax.weights.layouts.official import join_path

Arrays = dict[str, Any]  # name of the parameter (transformer.img_in.kernel) -> array
Fingerprint = list[Annotated[int, Meta(ge=0, lt=1 << 32)]]
CHUNK = 1 << 16  # numbers that the host hashes at once; they fit in its cache
_SPREAD = np.uint32(0x9E3779B1)  # multiplies the index of a number
_MURMUR = ((16, np.uint32(0x85EBCA6B)), (13, np.uint32(0xC2B2AE35)))  # MurmurHash3's finalizer
_LAST_SHIFT = 16


class ArrayInfo(TypedDict):
    """Description of one array; `fingerprints` explains `fingerprint`."""

    shape: list[Annotated[int, Meta(ge=0, lt=1 << 40)]]
    dtype: str
    fingerprint: Fingerprint


ArrayInfos = dict[str, ArrayInfo]  # by name


def name_arrays(tree: Any) -> Arrays:
    """Return a tree's arrays by name: the path of modules and attributes, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {n.removesuffix(".value"): x for n, (_, x) in zip(names, leaves, strict=True)}


@jax.jit
def fingerprints(arrays: Arrays) -> Arrays:
    """Compute two sums over the numbers of each array, modulo 2^32: (2,) uint32.

    The first one sums their bits, read as unsigned integers. It does not detect numbers that
    exchange places, or changes that cancel. The second one, over hashes of bits and index, does.

    Integer sums are exact in any order. Therefore they do not depend on the sharding, and for a
    sharded array only the sums travel between devices.
    """

    def fingerprint(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
        bits = bits.astype(jnp.uint32)
        index = jnp.zeros(x.shape, jnp.uint32)
        for axis, stride in enumerate(_strides(x.shape)):
            along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
            index += along * np.uint32(stride % 2**32)
        both, zero = (bits, _hash(bits, index)), np.uint32(0)
        # A single reduction: for two, XLA on CPUs would write the operands to memory.
        return jnp.stack(jax.lax.reduce(both, (zero, zero), _add_both, tuple(range(x.ndim))))

    return jax.tree.map(fingerprint, arrays)


def _add_both(a: Any, b: Any) -> Any:
    return a[0] + b[0], a[1] + b[1]


def _strides(shape: Sequence[int]) -> list[int]:
    """Return the distance of neighbours along each axis in row-major order."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _hash(bits: jax.Array, index: jax.Array) -> jax.Array:
    """Hashes uint32 arrays by the finalizer of MurmurHash3.

    For a fixed index it is a permutation of the bits, so a single change always changes the sum;
    and it is far from linear, so several changes cancel only with probability 2^-32.
    """
    x = bits ^ (index * _SPREAD)
    for shift, factor in _MURMUR:
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> _LAST_SHIFT)


def fingerprint_of(
    block: np.ndarray, start: Sequence[int] | None = None, shape: Sequence[int] | None = None
) -> Fingerprint:
    """Compute an array's fingerprint on the host, or what a block contributes to it.

    Args:
      block: the array, or a block of it.
      start: index of the block's first number in the array; None: zeros.
      shape: of the array; None: that of the block.
    """
    shape = block.shape if shape is None else tuple(shape)
    first = sum(i * n for i, n in zip(start or (), _strides(shape), strict=False))
    bits = block.reshape(-1).view(f"uint{8 * block.dtype.itemsize}").reshape(block.shape)
    return _sums(bits, first, shape)


def _sums(bits: np.ndarray, first: int, shape: Sequence[int]) -> Fingerprint:
    """Compute the sums of a block whose first number has the flat index `first`."""
    whole = [part == size for part, size in zip(bits.shape, shape, strict=True)]
    if all(whole[1:]):
        return _sums_of_rows(bits.reshape(1, -1), first, 0)
    stride = _strides(shape)[0]
    if all(whole[2:]):  # rows that are not contiguous in the array
        return _sums_of_rows(bits.reshape(len(bits), -1), first, stride)
    return combine(*(_sums(x, first + i * stride, shape[1:]) for i, x in enumerate(bits)))


def _sums_of_rows(rows: np.ndarray, first: int, stride: int) -> Fingerprint:
    """Compute the sums of rows that begin at flat indices first, first + stride, ...."""
    width = min(max(rows.shape[1], 1), CHUNK)
    height = min(len(rows), CHUNK // width)
    indices = np.arange(height)[:, None] * stride + np.arange(width)
    steps = indices.astype(np.uint32) * _SPREAD
    # Buffers are reused for all chunks: allocating them takes as long as the arithmetic.
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
            total = combine(total, [int(part.sum(dtype=np.uint32)) for part in (n, x)])
    return total


def combine(*parts: Fingerprint) -> Fingerprint:
    """Return the fingerprint of an array from those of its blocks."""
    return [sum(numbers) % 2**32 for numbers in zip(*parts, strict=True)]


def matches(saved: ArrayInfo, found: ArrayInfo) -> bool:
    """Return whether two descriptions agree; schema 2 has only a fingerprint's first number."""
    bits = zip(saved["fingerprint"], found["fingerprint"], strict=False)
    return summary(saved) == summary(found) and all(a == b for a, b in bits)


def summary(info: ArrayInfo) -> str:
    """Return dtype and shape as text: float32[16, 32]."""
    return f"{info['dtype']}{list(info['shape'])}"


def describe_arrays(arrays: Arrays) -> ArrayInfos:
    """Return shape, dtype and fingerprint of each array."""
    sums = jax.device_get(fingerprints(arrays))
    return {
        name: {
            "shape": list(x.shape),
            "dtype": str(x.dtype),
            "fingerprint": [int(number) for number in sums[name]],
        }
        for name, x in arrays.items()
    }


def make_fingerprinter(transform: Transform) -> tuple[ArrayInfos, Transform]:
    """Wrap a transform so that it also describes each parameter it is called with.

    Args:
      transform: what replaces each parameter.

    Returns:
      The descriptions, filled during loading, and the wrapped transform.
    """
    infos: ArrayInfos = {}

    def describe_and_transform(path: Path, parameter: nnx.Variable) -> Mapping[Path, nnx.Variable]:
        array = parameter.get_value()
        infos[join_path(path)] = describe_arrays({"": array})[""]  # one compilation per shape
        return transform(path, parameter)

    return infos, describe_and_transform


def checksum(description: dict[str, Any]) -> int:
    """Return the CRC-32 of a description."""
    return zlib.crc32(json.dumps(description, sort_keys=True).encode())
