"""Which results are sampled together."""

import math
from collections.abc import Sequence

from jax.sharding import Mesh

from step1x_jax.kernels.mesh_axes import BATCH_AXES

# In one batch on a device: one picture at 1024 px, which keeps it busy, four at 512 px. More would
# take memory and save no time.
PIXELS = 1 << 20


def batches(sizes: Sequence[tuple[int, int]], mesh: Mesh | None = None) -> list[list[int]]:
    """Groups of results of one size, each small enough to be sampled at once.

    Args:
      sizes: width and height, in pixels, at which each is made.
      mesh: on which they are made; where it has several parts of a batch, guidance fills two of
        them with one result.

    Returns:
      Lists of indices into `sizes`.
    """
    parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    of_size: dict[tuple[int, int], list[int]] = {}
    for i, size in enumerate(sizes):
        of_size.setdefault(size, []).append(i)
    groups = []
    for (width, height), members in of_size.items():
        most = max(1, PIXELS // (width * height)) * max(1, parts // 2)
        groups += [members[i : i + most] for i in range(0, len(members), most)]
    return groups
