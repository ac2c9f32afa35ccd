"""Groups of results that are sampled together."""

from collections.abc import Sequence

from jax.sharding import Mesh

from step1x_jax.parallel.mesh import count_batch_shards

# In one batch on a device: one picture at 1024 px, which keeps it busy, four at 512 px. More would
# take memory and save no time.
PIXELS = 1 << 20


def batches(
    kinds: Sequence[tuple[tuple[int, int], bool]], mesh: Mesh | None = None
) -> list[list[int]]:
    """Groups of results of one kind, each small enough to be sampled at once.

    Args:
      kinds: of each result: the size at which it is made, and whether it has a mask.
      mesh: on which they are made; where it has several parts of a batch, guidance fills two of
        them with one result.

    Returns:
      Lists of indices into `kinds`.
    """
    parts = 1 if mesh is None else count_batch_shards(mesh)
    of_kind: dict[tuple[tuple[int, int], bool], list[int]] = {}
    for i, kind in enumerate(kinds):
        of_kind.setdefault(kind, []).append(i)
    groups = []
    for ((width, height), _), members in of_kind.items():
        most = max(1, PIXELS // (width * height)) * max(1, parts // 2)
        groups += [members[i : i + most] for i in range(0, len(members), most)]
    return groups
