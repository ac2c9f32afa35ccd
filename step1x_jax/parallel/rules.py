"""Which array axis lies along which mesh axis: the one table that knows both sides.

Parameters carry *logical* axis names ("embed", "heads", ...; see models/). The table below maps
each of them to a mesh axis, where a parameter is stored and where a matmul uses it. Changing how
the model is laid out means changing this table and nothing else; results change by rounding at
most.
"""

from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES, TENSOR_AXIS

_, SHARDS = BATCH_AXES


class Rule(NamedTuple):
    """The mesh axis of a logical axis (None: every device holds all of it)."""

    stored: str | None = None  # of parameters, gradients, moments
    used: str | None = None  # of the weight that a matmul sees


WHOLE = Rule()

RULES: dict[str, Rule] = {
    # stacked blocks: the scan walks along them, so splitting would move whole layers around
    "layers": WHOLE,
    # model width; every large matrix has it once: FSDP splits this one, and the matmul sees it
    # gathered (in the compute dtype, block by block)
    "embed": Rule(stored=SHARDS),
    # the other side of those matrices: whole, or split for good over the tensor axis
    "mlp": Rule(TENSOR_AXIS, TENSOR_AXIS),
    "heads": Rule(TENSOR_AXIS, TENSOR_AXIS),
    "head_dim": WHOLE,  # scales of QK-norm
    # outputs of the modulations, a quarter of all parameters, which only see one vector of each
    # example: they stay where they are stored and the vectors travel (models/xla_tpu.py)
    "modulation": Rule(SHARDS, SHARDS),
    # ends of small matrices: timestep or global vector, text embeddings, channels of image tokens
    "vector": WHOLE,
    "context": WHOLE,
    "channels": WHOLE,
    # of adapters, where the array has no axis that is split already
    "rank": Rule(stored=SHARDS),
    # rows of the language model's embedding table: a token's row is looked up, not multiplied
    "vocab": WHOLE,
}


def partition_spec(
    names: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    column: str = "stored",
) -> PartitionSpec:
    """Maps the logical axis names of one array to the mesh.

    An axis whose size is not divisible by its mesh axis stays whole on every device (biases and
    norms of small models; all large arrays of the releases divide by any power of two up to 1024).

    Args:
      names: one logical name, or None, per axis.
      shape: the array's shape.
      mesh: an axis of mesh.AXES that it lacks has one device.
      column: of the table, "stored" or "used".

    Returns:
      A PartitionSpec with one entry per axis.

    Raises:
      ValueError: a name that is not in RULES, a wrong number of names, or two axes of the array
        that ask for the same mesh axis.
    """
    if len(names) != len(shape):
        raise ValueError(f"axis names {names} do not fit the shape {shape}")
    for name in names:
        if name is not None and name not in RULES:
            raise ValueError(f"logical axis {name!r} is not in parallel/rules.py's table")

    axes = [getattr(RULES[name], column) if name is not None else None for name in names]
    used = [axis for axis in axes if axis is not None]
    if len(used) != len(set(used)):
        raise ValueError(f"two of the axes {names} ask for the same mesh axis {used}")

    def divides(axis: str, size: int) -> bool:
        devices = mesh.shape.get(axis, 1)
        return devices > 1 and size % devices == 0

    return PartitionSpec(
        *(
            axis if axis is not None and divides(axis, size) else None
            for axis, size in zip(axes, shape, strict=True)
        )
    )


def shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """The NamedSharding of every array in a tree of nnx variables and plain arrays.

    Variables are placed by their logical names, wherever in the tree they are: optimizer moments
    are variables too (made from the parameters), so they lie exactly as their parameters do. Plain
    arrays (counters) and variables without names lie whole on every device.

    Args:
      abstract_state: a tree with the shape of every array, as from jax.eval_shape.
      mesh: with the axes of mesh.AXES.

    Returns:
      The same tree with a NamedSharding in the place of each array.
    """

    def place(spec: PartitionSpec, array: jax.ShapeDtypeStruct) -> NamedSharding:
        names = tuple(spec) or (None,) * len(array.shape)
        return NamedSharding(mesh, partition_spec(names, array.shape, mesh))

    logical = nnx.get_partition_spec(abstract_state)
    return jax.tree.map(
        place, logical, abstract_state, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Every array of a batch is split along its first axis, over data and fsdp together."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
