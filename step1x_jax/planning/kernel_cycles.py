"""Cycles of our attention kernels on TPUs: the compiler estimates none for them.

It does print its schedule, bundle by bundle (one a cycle where nothing stalls).
`python -m launch.kernel_cycles` compiles a kernel alone, reads the bundles of its loops from there
and prints a line for the table below; how often the loops run says the kernel. Stalls of the matmul
units are not in a schedule: estimate.py never takes less than the operations at the chip's peak.
"""

import re
from typing import NamedTuple

from step1x_jax.kernels.tuning import tpu_blocks
from step1x_jax.planning.chips import Chip
from step1x_jax.planning.estimate import KernelTime
from step1x_jax.planning.hlo import Instruction

# matmuls of a query with a key, forward and backward (kernels/attention_tpu.py): 2 and 5
FLOPS_PER_PAIR = {"forward": 4, "backward": 10}  # times the head width


class Loops(NamedTuple):
    """Bundles of a kernel that walks through a head block by block, each of them chunk by chunk.

    Attributes:
      chunk: of the inner loop, a chunk of a block.
      block: all that stands outside of loops; of it a block runs a part only.
      head: of the loops that run over a head's chunks once: what is prepared and finished.
    """

    chunk: int
    block: int
    head: int


# (chip, pass, rows of a block, rows of a chunk): as launch/kernel_cycles.py prints it, for heads of
# 128 with QK-norm and RoPE inside. Blocks are of queries forward, of keys backward.
TABLE: dict[tuple[str, str, int, int], Loops] = {
    ("v5p", "forward", 640, 640): Loops(chunk=1490, block=4973, head=667),
    ("v5p", "backward", 640, 640): Loops(chunk=3812, block=3373, head=1561),
    ("v6e", "forward", 640, 640): Loops(chunk=876, block=3348, head=504),
    ("v6e", "forward", 896, 896): Loops(chunk=1421, block=5378, head=662),
    ("v6e", "backward", 640, 640): Loops(chunk=2214, block=2189, head=1017),
    ("v6e", "backward", 896, 896): Loops(chunk=4222, block=2860, head=1361),
    ("v5e", "forward", 640, 640): Loops(chunk=1388, block=4953, head=669),
    ("v5e", "forward", 896, 896): Loops(chunk=2871, block=9275, head=920),
    ("v5e", "backward", 640, 640): Loops(chunk=3895, block=3125, head=1566),
    ("v5e", "backward", 896, 896): Loops(chunk=7428, block=4415, head=2224),
}


def read_loops(schedule: str, kind: str) -> Loops:
    """The loops of a kernel in the text of its final bundles.

    Args:
      schedule: the compiler's `...-final_bundles.txt`.
      kind: "forward" or "backward".

    Raises:
      ValueError: it has other loops than these kernels have.
    """
    rows = re.findall(r"^ *(?:0x[0-9a-f]+|0) *([A-Z]{2})? *: *(>*)", schedule, re.MULTILINE)
    loops: list[int] = []
    outside = 0
    for mark, depth in rows:
        if len(depth) < 2:
            outside += 1
        elif mark == "LB":
            loops.append(1)
        else:
            loops[-1] += 1
    # forward: prepare, attend without and with a running maximum; backward: prepare, gradients
    # without and with a mask, finish
    if len(loops) != {"forward": 3, "backward": 4}[kind]:
        raise ValueError(f"{kind}: loops of {loops} bundles")
    return Loops(chunk=loops[1], block=outside, head=loops[0] + sum(loops[3:]))


def kernel_time(instruction: Instruction, chip: Chip) -> KernelTime | None:
    """Of one of our kernels by its instruction; None for another.

    `seconds` is None for block sizes that are not in the table.
    """
    match = re.match(r"(forward|backward)_kernel\b", instruction.name)
    if not match or len(instruction.result[0].sizes) != 4:
        return None
    kind = match[1]
    batch, heads, length, width = instruction.result[0].sizes
    flops = FLOPS_PER_PAIR[kind] * batch * heads * length**2 * width
    # a matmul unit wider than a head is filled in part: the peak for these matmuls is lower
    filled = min(1.0, width / chip.mxu)
    sizes = getattr(tpu_blocks(chip.kind, length, length), kind)
    block, chunk = sizes if kind == "forward" else sizes[::-1]
    loops = TABLE.get((chip.name, kind, block, chunk))
    if loops is None or width != 128:
        return KernelTime(None, flops, flops / filled / chip.peak)
    per_head = length // block * (length // chunk * loops.chunk + loops.block)
    per_head += length // chunk * loops.head
    cycles = batch * -(-heads // chip.cores) * per_head
    return KernelTime(cycles / chip.clock, flops, flops / filled / chip.peak)
