"""Block sizes of the kernels: tables for what was looked at, and a rule for the rest.

`python -m launch.bench attention --tune` searches on the machine that it runs on and prints lines
for the tables.
"""

import itertools
from typing import NamedTuple


class Blocks(NamedTuple):
    """Rows that a TPU kernel works on at once.

    Attributes:
      forward: of queries, and of keys.
      backward: of queries, and of keys.
    """

    forward: tuple[int, int]
    backward: tuple[int, int]


class Tiles(NamedTuple):
    """Of a Hopper kernel: rows that travel at once, and places in shared memory for them."""

    size: int
    stages: int


class GpuBlocks(NamedTuple):
    """Of the forward kernel (keys travel), and of the backward ones for q (keys) and k (queries).

    The rows that stay are always two times 64, see gpu.py.
    """

    forward: Tiles
    dq: Tiles
    dkv: Tiles


# (kind of device, tokens). These come from the compiler's schedules (bundles of instructions in the
# inner loops), not from a clock. Kinds as JAX names them: v5p is "TPU v5", v5e "TPU v5 lite", v6e
# "TPU v6 lite". 1024 px is 8832 tokens, 8960 with padding: blocks that divide this in both passes
# pad only once.
TPU_TABLE: dict[tuple[str, int], Blocks] = {
    (kind, length): found
    for length in (8832, 8960)
    for kind, found in {
        "TPU v5": Blocks(forward=(640, 640), backward=(640, 640)),
        "TPU v5 lite": Blocks(forward=(640, 640), backward=(640, 640)),
        "TPU v6 lite": Blocks(forward=(896, 896), backward=(896, 896)),
    }.items()
}
CHUNKS = (896, 768, 640, 512, 384, 256, 128)

# None was looked at with a clock. The default is what fits the registers of a warpgroup, as the
# assembler reports them (tests/kernels/test_gpu_compilation.py), and three kernels' shared memory.
GPU_TABLE: dict[tuple[str, int], GpuBlocks] = {}
GPU_DEFAULT = GpuBlocks(forward=Tiles(128, 2), dq=Tiles(64, 3), dkv=Tiles(64, 3))


def tpu_blocks(device_kind: str, length: int, size: int) -> Blocks:
    """For `length` queries and `size` keys."""
    known = TPU_TABLE.get((device_kind, length)) if length == size else None
    both = chunk_size(length), chunk_size(size)
    return known or Blocks(forward=both, backward=both)


def gpu_blocks(device_kind: str, length: int, size: int) -> GpuBlocks:
    """For `length` queries and `size` keys."""
    known = GPU_TABLE.get((device_kind, length)) if length == size else None
    return known or GPU_DEFAULT


def chunk_size(length: int) -> int:
    """The chunk that wastes least; of those within 3 % of it the largest."""
    padded = {c: -(-length // c) * c for c in CHUNKS}
    least = min(padded.values())
    return max(c for c in CHUNKS if padded[c] <= 1.03 * least)


def padded_length(device_kind: str, length: int) -> int:
    """The tokens that the TPU kernels work on where `length` are asked for."""
    sizes = (n for pair in tpu_blocks(device_kind, length, length) for n in pair)
    return max(-(-length // n) * n for n in sizes)


def tpu_candidates() -> list[tuple[int, int]]:
    """What a search tries for each field of Blocks."""
    return list(itertools.product(CHUNKS, CHUNKS))


def gpu_candidates() -> list[Tiles]:
    """What a search tries for each field of GpuBlocks."""
    return [Tiles(*x) for x in itertools.product((64, 128), (2, 3, 4))]  # multiples of 64
