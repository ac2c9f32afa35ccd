"""Cycles of our attention kernels on TPUs: the compiler estimates none for them.

It does print its schedule, bundle by bundle (one a cycle where nothing stalls).
`python -m launch.kernel_cycles` compiles a kernel alone, reads the bundles of its loops from there
and prints a line for the table below; how often the loops run says the kernel. Stalls of the matmul
units are not in a schedule: estimate.py never takes less than the operations at the chip's peak.
"""

import re
from typing import NamedTuple

from step1x_jax.kernels.attention_tpu import LANES
from step1x_jax.kernels.tuning import tpu_blocks
from step1x_jax.planning.chips import Chip
from step1x_jax.planning.estimate import KernelTime
from step1x_jax.planning.hlo import Instruction

ROW = r"^ *(?:0x[0-9a-f]+|0) *([A-Z]{2})? *: *(>*)(.*)"  # of a schedule: mark, depth, bundle
# matmuls of a query with a key, forward and backward (kernels/attention_tpu.py): 2 and 5
FLOPS_PER_PAIR = {"forward": 4, "backward": 10}  # times the head width


class Loops(NamedTuple):
    """Bundles of a kernel that walks through a head block by block, each of them chunk by chunk.

    Attributes:
      chunk: of the inner loop, a chunk of a block.
      block: what stands outside of loops and is run by a block.
      head: of the loops that run over a head's chunks once: what is prepared and finished.
    """

    chunk: int
    block: int
    head: int


# (chip, pass, rows of a block, rows of a chunk): as launch/kernel_cycles.py prints it, for heads of
# 128 with QK-norm and RoPE inside. Blocks are of queries forward, of keys backward.
TABLE: dict[tuple[str, str, int, int], Loops] = {
    ("v5p", "forward", 640, 640): Loops(chunk=1490, block=1117, head=667),
    ("v5p", "forward", 896, 896): Loops(chunk=2841, block=1533, head=941),
    ("v5p", "backward", 640, 640): Loops(chunk=3815, block=2287, head=1741),
    ("v5p", "backward", 896, 896): Loops(chunk=7439, block=3135, head=2487),
    ("v6e", "forward", 640, 640): Loops(chunk=876, block=792, head=504),
    ("v6e", "forward", 896, 896): Loops(chunk=1435, block=968, head=662),
    ("v6e", "backward", 640, 640): Loops(chunk=2218, block=1493, head=1210),
    ("v6e", "backward", 896, 896): Loops(chunk=4234, block=1896, head=1614),
    ("v5e", "forward", 640, 640): Loops(chunk=1457, block=970, head=667),
    ("v5e", "forward", 896, 896): Loops(chunk=2900, block=1399, head=928),
    ("v5e", "backward", 640, 640): Loops(chunk=3856, block=2055, head=1761),
    ("v5e", "backward", 896, 896): Loops(chunk=7454, block=2925, head=2475),
}


def read_loops(schedule: str, kind: str) -> Loops:
    """The loops of a kernel in the text of its final bundles.

    Args:
      schedule: the compiler's `...-final_bundles.txt`.
      kind: "forward" or "backward".

    Raises:
      ValueError: it has other loops than these kernels have.
    """
    loops: list[int] = []
    # pieces, cut at loops, branches and marks: loops before it, bundles, those with matmuls
    outside: list[list[int]] = []
    cut = True
    for mark, depth, bundle in re.findall(ROW, schedule, re.MULTILINE):
        if len(depth) > 1:
            if mark == "LB":
                loops.append(0)
                cut = True
            loops[-1] += 1
            continue
        if cut or mark:
            outside.append([len(loops), 0, 0])
        outside[-1][1] += 1
        outside[-1][2] += "vmat" in bundle
        cut = "sbr.rel" in bundle
    # forward: prepare, attend without and with a running maximum; backward: prepare, gradients
    # without and with a mask, finish
    if len(loops) != {"forward": 3, "backward": 4}[kind]:
        raise ValueError(f"{kind}: loops of {loops} bundles")
    if kind == "forward":  # outside of loops, matmuls are the chunk with a mask: one of all chunks
        run = [bundles for _, bundles, matmuls in outside if not matmuls]
    else:  # and a block has a mask or none
        run = [bundles for before, bundles, _ in outside if before != 3]
    return Loops(chunk=loops[1], block=sum(run), head=loops[0] + sum(loops[3:]))


def kernel_time(instruction: Instruction, chip: Chip) -> KernelTime | None:
    """Of one of our kernels by its instruction; None for another.

    `seconds` is None for block sizes that are not in the table.
    """
    match = re.match(r"(forward|backward)_kernel\b", instruction.name)
    sizes = [array.sizes for array in instruction.result]
    if not match or len(sizes[0]) != 3:
        return None
    kind = match[1]
    batch, length, joined = sizes[0]
    # sums of the softmax, or gradients of scales, say how many heads lie side by side; a backward
    # pass without norms gives neither
    heads = next((x[1] for x in sizes if len(x) == 4), joined // LANES)
    width = joined // heads
    flops = FLOPS_PER_PAIR[kind] * batch * heads * length**2 * width
    # a matmul unit wider than a head is filled in part: the peak for these matmuls is lower
    filled = min(1.0, width / chip.mxu)
    blocks = getattr(tpu_blocks(chip.kind, length, length), kind)
    block, chunk = blocks if kind == "forward" else blocks[::-1]
    loops = TABLE.get((chip.name, kind, block, chunk))
    if loops is None or width != 128:
        return KernelTime(None, flops, flops / filled / chip.peak)
    per_head = length // block * (length // chunk * loops.chunk + loops.block)
    per_head += length // chunk * loops.head
    cycles = batch * -(-heads // chip.cores) * per_head
    return KernelTime(cycles / chip.clock, flops, flops / filled / chip.peak)
