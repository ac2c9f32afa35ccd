"""Our parameters from official tensors, one after another, each process what its devices hold."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.weights.copying import in_order, put
from step1x_jax.weights.finite import check_finite
from step1x_jax.weights.layouts.official import Box, ParamSlice, Table, by_parameter, dotted
from step1x_jax.weights.readers import Tensors

KEPT = {np.dtype(jnp.bfloat16), np.dtype(np.float16), np.dtype(np.float32)}  # as parameters
Path = tuple[str | int, ...]
# What is kept of a parameter that has just been placed, by path.
Keep = Callable[[Path, nnx.Variable], Mapping[Path, nnx.Variable]]
Source = tuple[ParamSlice, str, tuple[slice, ...]]  # see by_parameter


def filled(
    abstract_params: nnx.State,
    table: Table,
    tensors: Tensors,
    keep: Keep | None = None,
) -> nnx.State:
    """Abstract parameters with a reader's tensors in them.

    Of an official tensor that is split by rows a process reads the rows that its devices hold; one
    that is split by columns it reads whole. Besides what has been placed, the host never holds more
    than its part of one of our parameters, one reading, and what is made of that on the way (two
    copies for RoPE's order, float32 sums for a LoRA).

    Args:
      abstract_params: shapes, dtypes, paths and shardings; what has none goes onto the default
        device.
      table: how they lie in official tensors.
      tensors: gives these.
      keep: is given each parameter before the next one is read; None keeps it as it is.
    """
    sources = by_parameter(table)
    result: dict[Any, Any] = {}
    leaves: Iterable[Any] = nnx.to_flat_state(abstract_params)
    for path, leaf in leaves:
        variable = leaf.replace(_loaded(leaf.get_value(), sources[dotted(path)], tensors))
        result |= {path: variable} if keep is None else keep(path, variable)
        # JAX lets go of the host's copy when the collector runs, or somewhere in its next call: not
        # until the next parameter is there, too
        gc.collect(0)
    return nnx.from_flat_state(result)


def as_stored(
    abstract_params: nnx.State, table: Table, dtypes: Mapping[str, np.dtype]
) -> nnx.State:
    """Abstract parameters in the dtypes of their official tensors, each by itself.

    Args:
      abstract_params: shapes, dtypes and paths.
      table: how they lie in official tensors.
      dtypes: of these; where those of one parameter differ, it is float32, which holds them all.
    """
    sources = by_parameter(table)
    result: dict[Any, Any] = {}
    leaves: Iterable[Any] = nnx.to_flat_state(abstract_params)
    for path, leaf in leaves:
        stored = {dtypes[name] for _, name, _ in sources[dotted(path)]}
        kept = len(stored) == 1 and stored <= KEPT
        dtype = stored.pop() if kept else np.dtype(np.float32)
        result[path] = leaf.replace(jax.ShapeDtypeStruct(leaf.shape, dtype))
    return nnx.from_flat_state(result)


def our_block(source: Source, tensors: Tensors) -> np.ndarray:
    """One of our parameters, or of a stacked one a block: (1, ...); in our order in memory, too."""
    part, official, where = source
    return _in_our_order(part, tensors.read(official)[where])


def our_blocks(table: Table, tensors: Tensors) -> Iterator[tuple[ParamSlice, np.ndarray]]:
    """All of them, as `our_block`, in the order in which each tensor needs to be read once only."""
    for name, entry in table.items():
        tensor = tensors.read(name)
        for part, where, _ in entry.pieces():
            yield part, _in_our_order(part, tensor[where])


def _in_our_order(part: ParamSlice, piece: np.ndarray) -> np.ndarray:
    ours = in_order(part.to_ours(piece, tuple(map(range, part.shape))))
    return ours if part.layer is None else ours[None]


def at(abstract_params: nnx.State, places: nnx.State | None) -> nnx.State:
    """Abstract parameters at the places of a tree of shardings; None leaves them as they are."""
    if places is None:
        return abstract_params
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        abstract_params,
        places,
    )


def kept(params: nnx.State, keep: Keep) -> nnx.State:
    """What is kept of parameters that are there already, one after another."""
    leaves: Iterable[Any] = nnx.to_flat_state(params)
    result: dict[Any, Any] = {}
    for path, parameter in leaves:
        result |= keep(path, parameter)
    return nnx.from_flat_state(result)


def _loaded(leaf: jax.ShapeDtypeStruct, sources: Sequence[Source], tensors: Tensors) -> jax.Array:
    """One of our parameters."""
    place = leaf.sharding
    indices: Iterable[Any] = [(slice(None),) * len(leaf.shape)]
    if place is not None:
        indices = place.addressable_devices_indices_map(leaf.shape).values()
    here = dict.fromkeys(_box(leaf.shape, index) for index in indices)  # several may hold the same
    boxes = {box: np.empty([len(part) for part in box], leaf.dtype) for box in here}
    rounded = False
    for part, name, where in sources:
        rounded |= _fill(boxes, part, name, where, tensors)
    if rounded:  # to a dtype in which a sum, say, may be too large
        for box in boxes.values():
            check_finite(box, ", ".join(dict.fromkeys(name for _, name, _ in sources)), leaf.dtype)
    if place is None:
        (whole,) = boxes.values()
        array = jax.device_put(whole)
    else:
        array = jax.make_array_from_callback(
            leaf.shape, place, lambda index: boxes[_box(leaf.shape, index)]
        )
    return jax.block_until_ready(array)  # or the next one is read before this one has left the host


def _box(shape: tuple[int, ...], index: Any) -> Box:
    return tuple(range(size)[part] for size, part in zip(shape, index, strict=True))


def _fill(
    boxes: Mapping[Box, np.ndarray],
    part: ParamSlice,
    name: str,
    where: tuple[slice, ...],
    tensors: Tensors,
) -> bool:
    """Copies a part of the tensor `name` to the boxes; those of the same rows share a reading.

    Returns:
      Whether it is rounded to fewer bits on the way.
    """
    rounded = False
    first, *columns = where
    height = tensors.shapes[name][0]
    piece = range(height)[first]
    wanted: dict[bytes, tuple[np.ndarray, list[tuple[Box, np.ndarray]]]] = {}
    for box, target in boxes.items():
        if part.layer is not None:
            if part.layer not in box[0]:
                continue
            box, target = box[1:], target[part.layer - box[0].start, ...]
        rows = piece.start + part.rows_of(box)
        wanted.setdefault(rows.tobytes(), (rows, []))[1].append((box, target))
    for rows, targets in wanted.values():
        data = tensors.read(name, None if len(rows) == height else rows)[:, *columns]
        for box, target in targets:
            put(target, part.to_ours(data, box))
            rounded |= target.dtype != data.dtype and target.dtype.itemsize <= data.dtype.itemsize
    return rounded
