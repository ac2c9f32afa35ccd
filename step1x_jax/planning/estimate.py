"""How long a compiled program will take on chips that are not here: a model of time, not a clock.

Every instruction of the schedule is walked through in order, loops as often as they run, and takes:

- matmuls (fusions with a dot or convolution): the compiler's cycle estimate, at least their
  operations at the chip's peak, at least their bytes at its memory bandwidth;
- attention kernels (Pallas; the compiler estimates nothing): the cycles of kernel_cycles.py's
  table, at least their operations at the peak and their bytes at the bandwidth; without an entry in
  the table that least, which is said;
- collectives: bytes on the wire over the bandwidth of the links along the group's dimensions of the
  torus (all-reduce: there and back), plus LATENCY for each link of the way. A plain one stops
  everything. One with start and done runs beside what is scheduled between them, one after another
  over the same links: what is not over when its done comes is exposed. Both are "exposed
  collectives";
- the rest (elementwise fusions, reductions, copies): cycle estimate, at least their bytes at the
  bandwidth. Of a broadcast only the bytes: the compiler's estimate of them is ten times too high.
  Asynchronous copies between HBM and VMEM count as hidden; their bytes count.

The sum is no less than all bytes of the program at the memory bandwidth (the rest is raised to it).

What this does not see: the data, the host and the start of a step; waiting for slower peers;
matmuls that slow down because a collective runs beside them, on the same memory; cycles that the
compiler guesses wrongly; stalls in the attention kernels; contention of several groups on one link,
detours of groups that are not a ring, and the bisection of an all-to-all; copies to the host's
memory (remat "offload"); clocks that fall under load. Real steps will take longer; how much is not
known before one is measured.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable

from step1x_jax.planning.chips import DCN_BANDWIDTH, Topology
from step1x_jax.planning.hlo import (
    COLLECTIVES,
    Computation,
    Instruction,
    Program,
    hbm_bytes,
    matmul_flops,
    trip_count,
)

LATENCY = 1e-6  # seconds until a collective's first byte arrives, for each link of the way; assumed
LARGEST = 16  # places in the model that an estimate names
PARTS = ("matmuls", "attention_kernels", "exposed_collectives", "rest")

# An attention kernel's seconds and operations, from its instruction; None for another kernel.
KernelCost = Callable[[Instruction], "KernelTime | None"]
# From the number of devices in a group to its extent on the torus, and whether it spans slices.
GroupExtent = Callable[[int], tuple[tuple[int, ...], bool]]


@dataclasses.dataclass(frozen=True)
class KernelTime:
    """Of one run of a kernel.

    Attributes:
      seconds: None where nobody counted its cycles.
      flops: its operations.
      least: seconds that these take at the best speed of the chip.
    """

    seconds: float | None
    flops: float
    least: float


@dataclasses.dataclass
class Collective:
    """What all collectives of a kind do in one run of the program."""

    count: float = 0.0
    bytes: float = 0.0  # of the whole array that each gathers, reduces or sends, per chip
    async_bytes: float = 0.0  # of these, beside other work
    seconds: float = 0.0  # on the wire
    exposed_seconds: float = 0.0


@dataclasses.dataclass
class Estimate:
    """Seconds of one run of a program, by part, and what it does."""

    seconds: dict[str, float]
    collectives: dict[str, Collective]
    matmul_flops: float  # as compiled: with recomputation and padding
    kernel_flops: float
    hbm_bytes: float
    unknown_kernels: tuple[str, ...]
    largest: tuple[tuple[str, str, float], ...]  # part, where in the model, seconds

    @property
    def total(self) -> float:
        """Seconds of the whole."""
        return sum(self.seconds.values())


def estimate(
    program: Program, topology: Topology, group_extent: GroupExtent, kernel_cost: KernelCost
) -> Estimate:
    """Estimates one run of a program on every chip of a topology.

    Args:
      program: of hlo.read; compiled for these chips.
      topology: the chips.
      group_extent: how a collective's group of a size lies on them.
      kernel_cost: of kernel_cycles.py.
    """
    walk = _Walk(program, topology, group_extent, kernel_cost)
    walk.run(program.computations[program.entry], 1.0)
    least = walk.hbm_bytes / topology.chip.hbm_bandwidth
    walk.seconds["rest"] += max(0.0, least - sum(walk.seconds.values()))
    return Estimate(
        {part: walk.seconds[part] for part in PARTS},
        walk.collectives,
        walk.matmul_flops,
        walk.kernel_flops,
        walk.hbm_bytes,
        tuple(sorted(walk.unknown)),
        tuple(
            (part, source, seconds)
            for (part, source), seconds in sorted(walk.by_source.items(), key=lambda row: -row[1])
        )[:LARGEST],
    )


class _Walk:
    """Goes through a schedule; see the top of the file."""

    def __init__(
        self,
        program: Program,
        topology: Topology,
        group_extent: GroupExtent,
        kernel_cost: KernelCost,
    ):
        self.program, self.topology, self.chip = program, topology, topology.chip
        self.group_extent, self.kernel_cost = group_extent, kernel_cost
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.collectives: dict[str, Collective] = {}
        self.matmul_flops = self.kernel_flops = self.hbm_bytes = 0.0
        self.unknown: set[str] = set()
        self.by_source: dict[tuple[str, str], float] = defaultdict(float)

    def run(self, computation: Computation, times: float) -> float:
        """Adds a computation that runs so often; gives the seconds of one run."""
        now, link_free = 0.0, 0.0
        under_way: dict[str, tuple[float, str]] = {}  # chain or name -> when it is done, kind
        for x in computation.instructions.values():
            if x.operation == "while":
                body = self.program.computations[x.attribute("body") or ""]
                trips = trip_count(self.program, x)
                now += trips * self.run(body, times * trips)
            elif x.operation in ("call", "conditional"):
                now += max((self.run(c, times) for c in self._branches(x)), default=0.0)
            elif found := self._starts(x):
                for kind, instruction, key in found:
                    wire = self._wire(kind, instruction, times, hidden=True)
                    link_free = max(now, link_free) + wire
                    under_way[key] = link_free, kind
            elif (key := self._ends(x)) in under_way:
                done, kind = under_way.pop(key)
                now = self._expose(kind, now, done, times)
            elif plain := self._plain(x):
                kind, instruction = plain
                wire = self._wire(kind, instruction, times, hidden=False)
                link_free = max(now, link_free) + wire
                now = self._expose(kind, now, link_free, times)
            else:
                now += self._compute(computation, x, times)
        return now

    def _branches(self, x: Instruction) -> list[Computation]:
        names = re.findall(r"(?:to_apply|\w+_computation)=%?([\w.\-]+)", x.rest)
        listed = re.search(r"branch_computations=\{([^}]*)\}", x.rest)
        names += re.findall(r"[\w.\-]+", listed[1]) if listed else []
        return [self.program.computations[name] for name in names]

    # ------------------------------------------------------------ collectives

    def _starts(self, x: Instruction) -> list[tuple[str, Instruction, str]]:
        """The collectives that begin here, each with the key that its end will have."""
        if x.operation.endswith("-start"):
            kind = x.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                return [(kind, x, x.name)]
            inner = [i for _, i in self.program.inside(x) if i.operation in COLLECTIVES]
            return [(i.operation, i, x.name) for i in inner]
        if x.operation != "fusion":
            return []
        inside = [i for _, i in self.program.inside(x)]
        if not any('custom_call_target="AsyncCollectiveStart"' in i.rest for i in inside):
            return []
        return [(i.operation, i, _chain(i)) for i in inside if i.operation in COLLECTIVES]

    def _plain(self, x: Instruction) -> tuple[str, Instruction] | None:
        """A collective that everything waits for: by itself, or alone in a fusion.

        Fusions that carry a part of one that began before have its chain. A fusion of an all-reduce
        and the slice that a device keeps is how TPUs write most reduce-scatters.
        """
        if x.operation in COLLECTIVES:
            return x.operation, x
        if x.operation != "fusion":
            return None
        inside = [i for _, i in self.program.inside(x)]
        for i in inside:
            if i.operation in COLLECTIVES and not _chain(i):
                sliced = any("dynamic-slice" in other.operation for other in inside)
                scatters = i.operation == "all-reduce" and sliced
                return ("reduce-scatter" if scatters else i.operation), i
        return None

    def _ends(self, x: Instruction) -> str:
        if x.operation.endswith("-done") and x.operands:
            return x.operands[0]
        if x.operation != "fusion":
            return ""
        inside = [i for _, i in self.program.inside(x)]
        if not any('custom_call_target="AsyncCollectiveDone"' in i.rest for i in inside):
            return ""
        return next((_chain(i) for i in inside if i.operation in COLLECTIVES), "")

    def _wire(self, kind: str, x: Instruction, times: float, hidden: bool) -> float:
        """Counts a collective; gives its seconds on the wire."""
        size = _group_size(x, self.topology.chips)
        # a start's result holds operand and result: the largest array is the whole one
        whole = max((array.bytes for array in x.result), default=0.0)
        if not x.operation.endswith("-start"):
            whole = sum(array.bytes for array in x.result)
        if x.operation == "reduce-scatter":  # its result is a part
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

    def _expose(self, kind: str, now: float, done: float, times: float) -> float:
        wait = max(0.0, done - now)
        self.collectives[kind].exposed_seconds += wait * times
        self.seconds["exposed_collectives"] += wait * times
        return now + wait

    # ------------------------------------------------------------ work

    def _compute(self, computation: Computation, x: Instruction, times: float) -> float:
        if x.operation == "copy-start":  # target and source; between HBM and VMEM it is hidden
            self.hbm_bytes += times * sum(a.bytes for a in x.result[:2] if a.in_hbm)
        if x.operation.endswith(("-start", "-done")):
            return 0.0
        moved = hbm_bytes(self.program, computation, x)
        self.hbm_bytes += moved * times
        least = moved / self.chip.hbm_bandwidth
        cycles: float = 0 if x.operation == "broadcast" else x.cycles
        part, flops = "rest", 0.0
        estimated: float | None = cycles / self.chip.clock
        if x.operation == "custom-call" and "tpu_custom_call" in x.rest:
            part = "attention_kernels"
            cost = self.kernel_cost(x) or KernelTime(None, 0.0, 0.0)
            estimated, least = cost.seconds, max(least, cost.least)
            self.kernel_flops += cost.flops * times
            if estimated is None:
                self.unknown.add(x.name.split(".")[0])
        else:
            flops = matmul_flops(computation, x)
            if x.operation == "fusion":
                flops = sum(matmul_flops(c, i) for c, i in self.program.inside(x))
            if flops:
                part = "matmuls"
                self.matmul_flops += flops * times
        seconds = max(estimated or 0.0, least, flops / self.chip.peak)
        self.seconds[part] += seconds * times
        self.by_source[part, x.source or x.name] += seconds * times
        return seconds


def _chain(x: Instruction) -> str:
    """What the parts of one fused collective have in common."""
    match = re.search(r'chain_id="(\d+)"', x.rest)
    return f"chain {match[1]}" if match else ""


def _group_size(x: Instruction, chips: int) -> int:
    """How many devices take part in one group of a collective."""
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
