"""The sharding rules: the only table that maps logical axes of arrays to mesh axes.

Parameters carry *logical* axis names ("embed", "heads", ...; see models/). RULES maps each name to
two mesh axes: for the parameter as stored, and for the weight as used by a matmul. To change the
sharding of the model, change only this table; results then change at most by rounding.
"""

from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES, TENSOR_AXIS

_, SHARDS = BATCH_AXES


class Rule(NamedTuple):
    """The mesh axes of a logical axis (None: replicated on every device)."""

    stored: str | None = None  # for parameters, gradients and optimizer moments
    used: str | None = None  # for the weight in a matmul


REPLICATED = Rule()

RULES: dict[str, Rule] = {
    # stacked blocks: the scan iterates over this axis; sharding it would transfer whole layers
    "layers": REPLICATED,
    # model width, one axis of every large matrix: FSDP shards it, and the weight is gathered for
    # the matmul (in the compute dtype, block by block)
    "embed": Rule(stored=SHARDS),
    # the other axis of these matrices: replicated, or sharded over the tensor axis also in matmuls
    "mlp": Rule(TENSOR_AXIS, TENSOR_AXIS),
    "heads": Rule(TENSOR_AXIS, TENSOR_AXIS),
    "head_dim": REPLICATED,  # scales of QK-norm
    # outputs of the modulations, a quarter of all parameters, which are applied to one vector per
    # example: weights stay sharded and the vectors are transferred (models/xla_tpu.py)
    "modulation": Rule(SHARDS, SHARDS),
    # axes of small matrices: timestep or global vector, text embeddings, channels of image tokens
    "vector": REPLICATED,
    "context": REPLICATED,
    "channels": REPLICATED,
    # rank of adapters, named only where no other axis of the array is sharded
    "rank": Rule(stored=SHARDS),
    # rows of the language model's embedding table, which is used by lookup
    "vocab": REPLICATED,
}


def partition_spec(
    names: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    column: str = "stored",
) -> PartitionSpec:
    """Map the logical axis names of one array to a PartitionSpec.

    An axis whose size is not divisible by its mesh axis is replicated (biases and norms of small
    models; all large arrays of the releases are divisible by any power of two up to 1024).

    Args:
      names: one logical name, or None, per axis.
      shape: the array's shape.
      mesh: the mesh; missing axes of mesh.AXES count as size 1.
      column: "stored" or "used", the column of the table.

    Returns:
      A PartitionSpec with one entry per axis.

    Raises:
      ValueError: a name is not in RULES, the number of names is wrong, or two axes of the array map
        to the same mesh axis.
    """
    if len(names) != len(shape):
        raise ValueError(f"axis names {names} do not match the shape {shape}")
    for name in names:
        if name is not None and name not in RULES:
            raise ValueError(f"logical axis {name!r} is not in parallel/rules.py's table")

    axes = [getattr(RULES[name], column) if name is not None else None for name in names]
    used = [axis for axis in axes if axis is not None]
    if len(used) != len(set(used)):
        raise ValueError(f"two of the axes {names} map to the same mesh axis {used}")

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
    """Return the NamedSharding of every array in a tree of nnx variables and plain arrays.

    Variables are sharded by their logical names, wherever in the tree they are. Optimizer moments
    are variables created from the parameters, so they have the same shardings. Plain arrays
    (counters) and variables without names are replicated.

    Args:
      abstract_state: a tree with the shape of every array, for example from jax.eval_shape.
      mesh: a mesh with the axes of mesh.AXES.

    Returns:
      The same tree with a NamedSharding for each array.
    """

    def make_sharding(spec: PartitionSpec, array: jax.ShapeDtypeStruct) -> NamedSharding:
        names = tuple(spec) or (None,) * len(array.shape)
        return NamedSharding(mesh, partition_spec(names, array.shape, mesh))

    logical = nnx.get_partition_spec(abstract_state)
    return jax.tree.map(
        make_sharding, logical, abstract_state, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batch arrays: the first axis over data and fsdp together."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())
