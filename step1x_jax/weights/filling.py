"""Fills abstract parameters from official tensors; each process reads what its devices hold."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.weights.copying import copy_blocked, to_contiguous
from step1x_jax.weights.finite import check_finite
from step1x_jax.weights.layouts.official import (
    ParamSlice,
    ShardIndex,
    Table,
    join_path,
    slices_by_parameter,
)
from step1x_jax.weights.readers import Tensors

PARAM_DTYPES = {np.dtype(jnp.bfloat16), np.dtype(np.float16), np.dtype(np.float32)}
Path = tuple[str | int, ...]
# Called with each parameter once it is on its devices; returns what replaces it, by path.
Transform = Callable[[Path, nnx.Variable], Mapping[Path, nnx.Variable]]
SliceSource = tuple[ParamSlice, str, tuple[slice, ...]]  # see slices_by_parameter


def fill_params(
    abstract_params: nnx.State,
    table: Table,
    tensors: Tensors,
    transform: Transform | None = None,
) -> nnx.State:
    """Read the parameters from official tensors, one after another.

    Of an official tensor that is sharded along its rows a process reads the rows that its devices
    hold; a tensor that is sharded along its columns is read whole. Besides the loaded parameters,
    the host holds at most its shards of one parameter, one tensor that is read, and the copies made
    of it (two for RoPE's order, float32 sums for a LoRA).

    Args:
      abstract_params: shapes, dtypes, paths and shardings; without a sharding: the default device.
      table: maps our parameters to official tensors.
      tensors: reader of the official tensors.
      transform: is called with each parameter before the next one is read; None: no change.

    Returns:
      The parameters, or what `transform` returned.

    Raises:
      UserError: see the reader; or a number overflows the parameter's dtype.
    """
    sources = slices_by_parameter(table)
    result: dict[Any, Any] = {}
    leaves: Iterable[Any] = nnx.to_flat_state(abstract_params)
    for path, leaf in leaves:
        variable = leaf.replace(_load(leaf.get_value(), sources[join_path(path)], tensors))
        result |= {path: variable} if transform is None else transform(path, variable)
        # JAX frees the host copy only on garbage collection or in its next call, i.e. after the
        # next parameter was read: collect now.
        gc.collect(0)
    return nnx.from_flat_state(result)


def with_stored_dtypes(
    abstract_params: nnx.State, table: Table, dtypes: Mapping[str, np.dtype]
) -> nnx.State:
    """Return abstract parameters, each with the dtype of its official tensors.

    Args:
      abstract_params: shapes, dtypes and paths.
      table: maps our parameters to official tensors.
      dtypes: of the official tensors; a parameter of tensors of several dtypes is float32, which
        holds all of them exactly.
    """
    sources = slices_by_parameter(table)
    result: dict[Any, Any] = {}
    leaves: Iterable[Any] = nnx.to_flat_state(abstract_params)
    for path, leaf in leaves:
        stored = {dtypes[name] for _, name, _ in sources[join_path(path)]}
        is_param_dtype = len(stored) == 1 and stored <= PARAM_DTYPES
        dtype = stored.pop() if is_param_dtype else np.dtype(np.float32)
        result[path] = leaf.replace(jax.ShapeDtypeStruct(leaf.shape, dtype))
    return nnx.from_flat_state(result)


def read_block(source: SliceSource, tensors: Tensors) -> np.ndarray:
    """Read one of our parameters, or one block of a stacked one: (1, ...), C-contiguous."""
    part, official, where = source
    return _to_our_layout(part, tensors.read(official)[where])


def iter_blocks(table: Table, tensors: Tensors) -> Iterator[tuple[ParamSlice, np.ndarray]]:
    """Yield all parameters as in `read_block`; the order is such that each tensor is read once."""
    for name, entry in table.items():
        tensor = tensors.read(name)
        for part, where, _ in entry.iter_slices():
            yield part, _to_our_layout(part, tensor[where])


def _to_our_layout(part: ParamSlice, official: np.ndarray) -> np.ndarray:
    ours = to_contiguous(part.to_ours(official, tuple(map(range, part.shape))))
    return ours if part.layer is None else ours[None]


def set_shardings(abstract_params: nnx.State, shardings: nnx.State | None) -> nnx.State:
    """Return abstract parameters with the given shardings; None: unchanged."""
    if shardings is None:
        return abstract_params
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        abstract_params,
        shardings,
    )


def map_params(params: nnx.State, transform: Transform) -> nnx.State:
    """Return what `transform` makes of loaded parameters, one after another."""
    leaves: Iterable[Any] = nnx.to_flat_state(params)
    result: dict[Any, Any] = {}
    for path, parameter in leaves:
        result |= transform(path, parameter)
    return nnx.from_flat_state(result)


def _load(
    leaf: jax.ShapeDtypeStruct, sources: Sequence[SliceSource], tensors: Tensors
) -> jax.Array:
    """Read one of our parameters."""
    sharding = leaf.sharding
    indices: Iterable[Any] = [(slice(None),) * len(leaf.shape)]
    if sharding is not None:
        indices = sharding.addressable_devices_indices_map(leaf.shape).values()
    local = dict.fromkeys(
        _shard_index(leaf.shape, index) for index in indices
    )  # replicas share one
    shards = {shard: np.empty([len(part) for part in shard], leaf.dtype) for shard in local}
    rounded = False
    for part, name, where in sources:
        rounded |= _fill_shards(shards, part, name, where, tensors)
    if rounded:  # rounding may overflow, e.g. a sum in float16
        for shard in shards.values():
            check_finite(
                shard, ", ".join(dict.fromkeys(name for _, name, _ in sources)), leaf.dtype
            )
    if sharding is None:
        (whole,) = shards.values()
        array = jax.device_put(whole)
    else:
        array = jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: shards[_shard_index(leaf.shape, index)]
        )
    return jax.block_until_ready(array)  # else the next one is read while this one is on the host


def _shard_index(shape: tuple[int, ...], index: Any) -> ShardIndex:
    """Return a shard's index (slices) as ranges."""
    return tuple(range(size)[part] for size, part in zip(shape, index, strict=True))


def _fill_shards(
    shards: Mapping[ShardIndex, np.ndarray],
    part: ParamSlice,
    name: str,
    where: tuple[slice, ...],
    tensors: Tensors,
) -> bool:
    """Copy a slice of the official tensor `name` to the shards, reading each set of rows once.

    Returns:
      Whether numbers were rounded to fewer bits.
    """
    rounded = False
    first, *columns = where
    height = tensors.shapes[name][0]
    official = range(height)[first]
    wanted: dict[bytes, tuple[np.ndarray, list[tuple[ShardIndex, np.ndarray]]]] = {}
    for shard, target in shards.items():
        if part.layer is not None:
            if part.layer not in shard[0]:
                continue
            shard, target = shard[1:], target[part.layer - shard[0].start, ...]
        rows = official.start + part.official_rows(shard)
        wanted.setdefault(rows.tobytes(), (rows, []))[1].append((shard, target))
    for rows, targets in wanted.values():
        data = tensors.read(name, None if len(rows) == height else rows)[:, *columns]
        for shard, target in targets:
            copy_blocked(target, part.to_ours(data, shard))
            rounded |= target.dtype != data.dtype and target.dtype.itemsize <= data.dtype.itemsize
    return rounded
