"""Estimate the time of a compiled program on TPUs: a model, not a measurement.

The scheduled instructions are visited in order; a loop's body counts once per iteration. Costs:

- matmuls (fusions with a dot or convolution): the maximum of the compiler's cycle estimate, FLOPs
  over the chip's peak and bytes over its memory bandwidth;
- attention kernels (Pallas, for which the compiler has no estimate): the maximum of the cycles in
  the table of kernel_cycles.py, FLOPs over the peak and bytes over the bandwidth. A kernel that is
  not in the table costs the maximum of the last two, and is reported;
- collectives: bytes on the wire over the bandwidth of the links along the group's torus dimensions
  (an all-reduce counts twice), plus LATENCY per link of the path. A synchronous collective blocks
  everything. An asynchronous one runs from its start to its done beside the instructions between
  them; collectives on the same links run one after another. The time for which its done has to
  wait is exposed. Both count as "exposed_collectives";
- the rest (elementwise fusions, reductions, copies): the maximum of the cycle estimate and bytes
  over the bandwidth. A broadcast counts its bytes only, because the compiler's estimate for it is
  ten times too high. Asynchronous copies between HBM and VMEM are hidden, but their bytes count.

The total is at least all bytes of the program over the memory bandwidth ("rest" is raised if not).

Not modeled: input data, the host and the launch of a step; waiting for slower peers; matmuls slowed
down by collectives that use the same memory; errors of the compiler's cycle estimates; stalls in
the attention kernels; contention of several groups on a link, detours of groups that are not a
ring, and the bisection bandwidth of an all-to-all; copies to host memory (remat "offload"); clocks
that drop under load. Real steps take longer. By how much is unknown until one is measured.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable

from step1x_jax.planning.chips import DCN_BANDWIDTH, Topology
from step1x_jax.planning.hlo import (
    COLLECTIVES,
    HloComputation,
    HloInstruction,
    HloProgram,
    hbm_bytes,
    matmul_flops,
    trip_count,
)

LATENCY = 1e-6  # seconds per link of a collective's path; an assumption
LARGEST_ENTRIES = 16  # operations that an estimate lists, most expensive first
CATEGORIES = ("matmuls", "attention_kernels", "exposed_collectives", "rest")

# From an instruction to the cost of an attention kernel; None for other kernels.
KernelCost = Callable[[HloInstruction], "KernelTime | None"]
# From the size of a device group to its extent on the torus, and whether it spans slices.
GroupExtent = Callable[[int], tuple[tuple[int, ...], bool]]


@dataclasses.dataclass(frozen=True)
class KernelTime:
    """Cost of one run of a kernel.

    Attributes:
      seconds: time by counted cycles; None if they are unknown.
      flops: FLOPs.
      lower_bound: seconds for these FLOPs at the chip's peak.
    """

    seconds: float | None
    flops: float
    lower_bound: float


@dataclasses.dataclass
class Collective:
    """Totals of all collectives of a kind in one run of the program."""

    count: float = 0.0
    bytes: float = 0.0  # full arrays that are gathered, reduced or sent, per chip
    async_bytes: float = 0.0  # the asynchronous part of these
    seconds: float = 0.0  # on the wire
    exposed_seconds: float = 0.0


@dataclasses.dataclass
class Estimate:
    """Estimated seconds of one run of a program by category, and its totals."""

    seconds: dict[str, float]
    collectives: dict[str, Collective]
    matmul_flops: float  # as compiled: with rematerialization and padding
    kernel_flops: float
    hbm_bytes: float
    unknown_kernels: tuple[str, ...]
    largest: tuple[tuple[str, str, float], ...]  # category, op name, seconds

    @property
    def total(self) -> float:
        """Seconds of the whole program."""
        return sum(self.seconds.values())


def estimate(
    program: HloProgram, topology: Topology, group_extent: GroupExtent, kernel_cost: KernelCost
) -> Estimate:
    """Estimate one run of a program on all chips of a topology.

    Args:
      program: the program, compiled for these chips.
      topology: the chips.
      group_extent: extent of a collective's device group on the torus.
      kernel_cost: cost of an attention kernel, see kernel_cycles.py.
    """
    walk = _ScheduleWalk(program, topology, group_extent, kernel_cost)
    walk.run(program.computations[program.entry], 1.0)
    least = walk.hbm_bytes / topology.chip.hbm_bandwidth
    walk.seconds["rest"] += max(0.0, least - sum(walk.seconds.values()))
    return Estimate(
        {category: walk.seconds[category] for category in CATEGORIES},
        walk.collectives,
        walk.matmul_flops,
        walk.kernel_flops,
        walk.hbm_bytes,
        tuple(sorted(walk.unknown)),
        tuple(
            (category, source, seconds)
            for (category, source), seconds in sorted(
                walk.by_op_name.items(), key=lambda row: -row[1]
            )
        )[:LARGEST_ENTRIES],
    )


class _ScheduleWalk:
    """Visits a schedule and accumulates its costs; see the docstring of the module."""

    def __init__(
        self,
        program: HloProgram,
        topology: Topology,
        group_extent: GroupExtent,
        kernel_cost: KernelCost,
    ):
        self.program, self.topology, self.chip = program, topology, topology.chip
        self.group_extent, self.kernel_cost = group_extent, kernel_cost
        self.seconds: dict[str, float] = dict.fromkeys(CATEGORIES, 0.0)
        self.collectives: dict[str, Collective] = {}
        self.matmul_flops = self.kernel_flops = self.hbm_bytes = 0.0
        self.unknown: set[str] = set()
        self.by_op_name: dict[tuple[str, str], float] = defaultdict(float)

    def run(self, computation: HloComputation, times: float) -> float:
        """Add a computation that runs `times` times; return the seconds of one run."""
        now, link_free = 0.0, 0.0
        # asynchronous collectives: chain or name -> (end, kind)
        in_flight: dict[str, tuple[float, str]] = {}
        for x in computation.instructions.values():
            if x.operation == "while":
                body = self.program.computations[x.attribute("body") or ""]
                trips = trip_count(self.program, x)
                now += trips * self.run(body, times * trips)
            elif x.operation in ("call", "conditional"):
                now += max((self.run(c, times) for c in self._branches(x)), default=0.0)
            elif found := self._find_starts(x):
                for kind, instruction, key in found:
                    wire = self._count_collective(kind, instruction, times, hidden=True)
                    link_free = max(now, link_free) + wire
                    in_flight[key] = link_free, kind
            elif (key := self._find_done(x)) in in_flight:
                done, kind = in_flight.pop(key)
                now = self._wait(kind, now, done, times)
            elif synchronous := self._find_synchronous(x):
                kind, instruction = synchronous
                wire = self._count_collective(kind, instruction, times, hidden=False)
                link_free = max(now, link_free) + wire
                now = self._wait(kind, now, link_free, times)
            else:
                now += self._add_compute(computation, x, times)
        return now

    def _branches(self, x: HloInstruction) -> list[HloComputation]:
        names = re.findall(r"(?:to_apply|\w+_computation)=%?([\w.\-]+)", x.rest)
        listed = re.search(r"branch_computations=\{([^}]*)\}", x.rest)
        names += re.findall(r"[\w.\-]+", listed[1]) if listed else []
        return [self.program.computations[name] for name in names]

    # ------------------------------------------------------------ collectives

    def _find_starts(self, x: HloInstruction) -> list[tuple[str, HloInstruction, str]]:
        """Return the asynchronous collectives that start here, with the key of their done."""
        if x.operation.endswith("-start"):
            kind = x.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                return [(kind, x, x.name)]
            inner = [
                i for _, i in self.program.nested_instructions(x) if i.operation in COLLECTIVES
            ]
            return [(i.operation, i, x.name) for i in inner]
        if x.operation != "fusion":
            return []
        inside = [i for _, i in self.program.nested_instructions(x)]
        if not any('custom_call_target="AsyncCollectiveStart"' in i.rest for i in inside):
            return []
        return [(i.operation, i, _chain(i)) for i in inside if i.operation in COLLECTIVES]

    def _find_synchronous(self, x: HloInstruction) -> tuple[str, HloInstruction] | None:
        """Return a synchronous collective, either by itself or in a fusion.

        Collectives with a chain belong to an asynchronous one that started earlier. XLA:TPU emits
        most reduce-scatters as a fusion of an all-reduce and the slice that the device keeps.
        """
        if x.operation in COLLECTIVES:
            return x.operation, x
        if x.operation != "fusion":
            return None
        inside = [i for _, i in self.program.nested_instructions(x)]
        for i in inside:
            if i.operation in COLLECTIVES and not _chain(i):
                sliced = any("dynamic-slice" in other.operation for other in inside)
                scatters = i.operation == "all-reduce" and sliced
                return ("reduce-scatter" if scatters else i.operation), i
        return None

    def _find_done(self, x: HloInstruction) -> str:
        """Return the key of the asynchronous collective that is done here; "" if none is."""
        if x.operation.endswith("-done") and x.operands:
            return x.operands[0]
        if x.operation != "fusion":
            return ""
        inside = [i for _, i in self.program.nested_instructions(x)]
        if not any('custom_call_target="AsyncCollectiveDone"' in i.rest for i in inside):
            return ""
        return next((_chain(i) for i in inside if i.operation in COLLECTIVES), "")

    def _count_collective(self, kind: str, x: HloInstruction, times: float, hidden: bool) -> float:
        """Count a collective; return its seconds on the wire."""
        size = _group_size(x, self.topology.chips)
        # The result of a start holds operand and result: the largest array is the full one.
        whole = max((array.bytes for array in x.result), default=0.0)
        if not x.operation.endswith("-start"):
            whole = sum(array.bytes for array in x.result)
        if x.operation == "reduce-scatter":  # its result is one shard
            whole *= size
        extent, spans = self.group_extent(size)
        bandwidth = DCN_BANDWIDTH if spans else self.topology.bandwidth(extent)
        share = 1.0 if kind.startswith("collective-") else (size - 1) / size
        sent = whole * share * (2 if kind == "all-reduce" else 1)
        seconds = sent / bandwidth + LATENCY * sum(n // 2 + 1 for n in extent if n > 1)
        counted = self.collectives.setdefault(kind, Collective())
        counted.count += times
        counted.bytes += whole * times
        counted.async_bytes += whole * times * hidden
        counted.seconds += seconds * times
        return seconds

    def _wait(self, kind: str, now: float, done: float, times: float) -> float:
        """Wait for a collective from `now` until `done`; return the time after it."""
        wait = max(0.0, done - now)
        self.collectives[kind].exposed_seconds += wait * times
        self.seconds["exposed_collectives"] += wait * times
        return now + wait

    # ------------------------------------------------------------ work

    def _add_compute(self, computation: HloComputation, x: HloInstruction, times: float) -> float:
        """Add an instruction that is no collective; return its seconds."""
        if x.operation == "copy-start":  # destination and source; the copy itself is hidden
            self.hbm_bytes += times * sum(a.bytes for a in x.result[:2] if a.in_hbm)
        if x.operation.endswith(("-start", "-done")):
            return 0.0
        moved = hbm_bytes(self.program, computation, x)
        self.hbm_bytes += moved * times
        least = moved / self.chip.hbm_bandwidth
        cycles: float = 0 if x.operation == "broadcast" else x.cycles
        category, flops = "rest", 0.0
        estimated: float | None = cycles / self.chip.clock
        if x.operation == "custom-call" and "tpu_custom_call" in x.rest:
            category = "attention_kernels"
            cost = self.kernel_cost(x) or KernelTime(None, 0.0, 0.0)
            estimated, least = cost.seconds, max(least, cost.lower_bound)
            self.kernel_flops += cost.flops * times
            if estimated is None:
                self.unknown.add(x.name.split(".")[0])
        else:
            flops = matmul_flops(computation, x)
            if x.operation == "fusion":
                flops = sum(matmul_flops(c, i) for c, i in self.program.nested_instructions(x))
            if flops:
                category = "matmuls"
                self.matmul_flops += flops * times
        seconds = max(estimated or 0.0, least, flops / self.chip.peak)
        self.seconds[category] += seconds * times
        self.by_op_name[category, x.op_name or x.name] += seconds * times
        return seconds


def _chain(x: HloInstruction) -> str:
    """Return the chain id that all pieces of a fused asynchronous collective share; "" if none."""
    match = re.search(r'chain_id="(\d+)"', x.rest)
    return f"chain {match[1]}" if match else ""


def _group_size(x: HloInstruction, chips: int) -> int:
    """Return the number of devices in one group of a collective."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", x.rest)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'([^']+)'", mesh[2]))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", x.rest)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", x.rest)
    if listed:
        return len(listed[1].split(","))
    if x.operation.startswith("collective-permute"):
        return 2
    return chips
