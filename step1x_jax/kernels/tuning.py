"""Block sizes of the kernels: tables of tuned sizes, and a rule for all other shapes.

`python -m launch.bench attention --tune` searches on the attached device and prints lines for the
tables.
"""

import itertools
from typing import NamedTuple


class Blocks(NamedTuple):
    """Block sizes of the TPU kernels, in rows.

    Attributes:
      forward: (block_q, block_kv).
      backward: (block_q, block_kv).
    """

    forward: tuple[int, int]
    backward: tuple[int, int]


class Tiles(NamedTuple):
    """The streamed tiles of a Hopper kernel.

    Attributes:
      rows: rows of a tile.
      stages: tiles in shared memory at a time.
    """

    rows: int
    stages: int


class GpuBlocks(NamedTuple):
    """Tiles of the forward, dq and dk/dv kernels of Hopper GPUs.

    The first two stream keys and values, the last one queries. Resident tiles always have 2 * 64
    rows (gpu.py).
    """

    forward: Tiles
    dq: Tiles
    dkv: Tiles


# (kind of device, tokens) -> Blocks. The sizes were chosen from the compiler's schedules (number of
# instruction bundles in the inner loops), not from measured times. Kinds are JAX's names: v5p is
# "TPU v5", v5e "TPU v5 lite", v6e "TPU v6 lite". 1024 px is 8832 tokens, 8960 with padding; blocks
# that divide 8960 in both passes need padding only once.
TPU_TABLE: dict[tuple[str, int], Blocks] = {
    (kind, length): found
    for length in (8832, 8960)
    for kind, found in {
        "TPU v5": Blocks(forward=(640, 640), backward=(640, 640)),
        "TPU v5 lite": Blocks(forward=(640, 640), backward=(640, 640)),
        "TPU v6 lite": Blocks(forward=(896, 896), backward=(896, 896)),
    }.items()
}
BLOCK_SIZES = (896, 768, 640, 512, 384, 256, 128)

# Empty: nothing has been measured on a GPU. The default fits the registers of a warpgroup, as the
# assembler reports them (tests/kernels/test_gpu_compilation.py), and the shared memory.
GPU_TABLE: dict[tuple[str, int], GpuBlocks] = {}
GPU_DEFAULT = GpuBlocks(forward=Tiles(128, 2), dq=Tiles(64, 3), dkv=Tiles(64, 3))


def tpu_blocks(device_kind: str, q_len: int, kv_len: int) -> Blocks:
    """Return the block sizes of the TPU kernels for `q_len` queries and `kv_len` keys."""
    known = TPU_TABLE.get((device_kind, q_len)) if q_len == kv_len else None
    both = choose_block_size(q_len), choose_block_size(kv_len)
    return known or Blocks(forward=both, backward=both)


def gpu_blocks(device_kind: str, q_len: int, kv_len: int) -> GpuBlocks:
    """Return the tiles of the Hopper kernels for `q_len` queries and `kv_len` keys."""
    known = GPU_TABLE.get((device_kind, q_len)) if q_len == kv_len else None
    return known or GPU_DEFAULT


def choose_block_size(length: int) -> int:
    """Return the largest block size whose padded length is within 3 % of the smallest one."""
    padded = {size: -(-length // size) * size for size in BLOCK_SIZES}
    least = min(padded.values())
    return max(size for size in BLOCK_SIZES if padded[size] <= 1.03 * least)


def padded_length(device_kind: str, length: int) -> int:
    """Return the number of tokens to which the TPU kernels pad `length` tokens."""
    sizes = (n for pair in tpu_blocks(device_kind, length, length) for n in pair)
    return max(-(-length // n) * n for n in sizes)


def tpu_candidates() -> list[tuple[int, int]]:
    """Return the values that a search tries for each field of Blocks."""
    return list(itertools.product(BLOCK_SIZES, BLOCK_SIZES))


def gpu_candidates() -> list[Tiles]:
    """Return the values that a search tries for each field of GpuBlocks."""
    return [Tiles(*x) for x in itertools.product((64, 128), (2, 3, 4))]  # rows: multiples of 64
