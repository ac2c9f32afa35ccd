"""Cycles of our attention kernels on TPUs, for which the compiler has no estimate.

The compiler prints a schedule of bundles; without stalls a bundle takes one cycle.
`python -m launch.kernel_cycles` compiles a single kernel, counts the bundles of its loops and
prints a line for the table below. The trip counts of the loops follow from the kernel. A schedule
does not show stalls of the matrix units; estimate.py therefore takes at least the FLOPs over the
chip's peak.
"""

import re
from typing import NamedTuple

from step1x_jax.kernels.attention_tpu import LANES
from step1x_jax.kernels.tuning import tpu_blocks
from step1x_jax.planning.chips import Chip
from step1x_jax.planning.estimate import KernelTime
from step1x_jax.planning.hlo import HloInstruction

# A line of a schedule: address, mark, depth, bundle.
SCHEDULE_LINE = r"^ *(?:0x[0-9a-f]+|0) *([A-Z]{2})? *: *(>*)(.*)"

# FLOPs per query-key pair and head width: 2 matmuls forward, 5 backward (kernels/attention_tpu.py).
FLOPS_PER_PAIR = {"forward": 4, "backward": 10}


class LoopBundles(NamedTuple):
    """Bundles of a kernel that loops over the blocks of a head, and in each over chunks.

    Attributes:
      chunk: bundles of the inner loop, per chunk of a block.
      block: bundles outside of loops, per block.
      head: bundles of the loops that run once over a head's chunks, to prepare and to finish.
    """

    chunk: int
    block: int
    head: int


# Key: (chip, pass, rows of a block, rows of a chunk). Printed by launch/kernel_cycles.py for heads
# of width 128 with fused QK-norm and RoPE. A block has queries in the forward pass, keys in the
# backward pass.
TABLE: dict[tuple[str, str, int, int], LoopBundles] = {
    ("v5p", "forward", 640, 640): LoopBundles(chunk=1490, block=1117, head=667),
    ("v5p", "forward", 896, 896): LoopBundles(chunk=2841, block=1533, head=941),
    ("v5p", "backward", 640, 640): LoopBundles(chunk=3815, block=2287, head=1741),
    ("v5p", "backward", 896, 896): LoopBundles(chunk=7439, block=3135, head=2487),
    ("v6e", "forward", 640, 640): LoopBundles(chunk=876, block=792, head=504),
    ("v6e", "forward", 896, 896): LoopBundles(chunk=1435, block=968, head=662),
    ("v6e", "backward", 640, 640): LoopBundles(chunk=2218, block=1493, head=1210),
    ("v6e", "backward", 896, 896): LoopBundles(chunk=4234, block=1896, head=1614),
    ("v5e", "forward", 640, 640): LoopBundles(chunk=1457, block=970, head=667),
    ("v5e", "forward", 896, 896): LoopBundles(chunk=2900, block=1399, head=928),
    ("v5e", "backward", 640, 640): LoopBundles(chunk=3856, block=2055, head=1761),
    ("v5e", "backward", 896, 896): LoopBundles(chunk=7454, block=2925, head=2475),
}


def count_loop_bundles(schedule: str, kind: str) -> LoopBundles:
    """Count the bundles of a kernel's loops in its schedule.

    Args:
      schedule: text of the compiler's `...-final_bundles.txt`.
      kind: "forward" or "backward".

    Raises:
      ValueError: the schedule does not have the loops of these kernels.
    """
    loops: list[int] = []
    # Sections between loops, branches and marks: [loops before it, bundles, bundles with matmuls].
    outside: list[list[int]] = []
    cut = True
    for mark, depth, bundle in re.findall(SCHEDULE_LINE, schedule, re.MULTILINE):
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
    # Loops of the forward pass: prepare, attend without and with a running maximum; of the backward
    # pass: prepare, gradients without and with a mask, finish.
    if len(loops) != {"forward": 3, "backward": 4}[kind]:
        raise ValueError(f"{kind}: loops of {loops} bundles")
    if kind == "forward":  # matmuls outside of loops are the masked chunk, counted as a chunk
        run = [bundles for _, bundles, matmuls in outside if not matmuls]
    else:  # a block runs the loop with or without a mask, not both
        run = [bundles for before, bundles, _ in outside if before != 3]
    return LoopBundles(chunk=loops[1], block=sum(run), head=loops[0] + sum(loops[3:]))


def kernel_time(instruction: HloInstruction, chip: Chip) -> KernelTime | None:
    """Return the cost of an attention kernel; None if the instruction is another kernel.

    `seconds` is None if the block sizes are not in the table.
    """
    match = re.match(r"(forward|backward)_kernel\b", instruction.name)
    sizes = [array.sizes for array in instruction.result]
    if not match or len(sizes[0]) != 3:
        return None
    kind = match[1]
    batch, length, joined = sizes[0]
    # The number of heads is the second axis of the softmax sums or of the gradients of the scales.
    # A backward pass without norms has neither.
    heads = next((x[1] for x in sizes if len(x) == 4), joined // LANES)
    width = joined // heads
    flops = FLOPS_PER_PAIR[kind] * batch * heads * length**2 * width
    # An MXU wider than a head is only partly used, so the peak of these matmuls is lower.
    filled = min(1.0, width / chip.mxu_width)
    blocks = getattr(tpu_blocks(chip.kind, length, length), kind)
    block, chunk = blocks if kind == "forward" else blocks[::-1]
    loops = TABLE.get((chip.name, kind, block, chunk))
    if loops is None or width != 128:
        return KernelTime(None, flops, flops / filled / chip.peak)
    per_head = length // block * (length // chunk * loops.chunk + loops.block)
    per_head += length // chunk * loops.head
    cycles = batch * -(-heads // chip.cores) * per_head
    return KernelTime(cycles / chip.clock, flops, flops / filled / chip.peak)
