"""Parse the HLO text of a compiled program; count the FLOPs and HBM bytes of its instructions.

Nothing here depends on a chip.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s4": 0.5, "u4": 0.5, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1,
    "token": 0,
}  # fmt: skip
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")


@dataclasses.dataclass(frozen=True)
class HloArray:
    """One array of a result: element type, shape, and whether it is in HBM (not VMEM)."""

    dtype: str
    sizes: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> float:
        """Bytes without padding."""
        return math.prod(self.sizes) * ITEM_BYTES.get(self.dtype, 0)


@dataclasses.dataclass
class HloInstruction:
    """One instruction of a computation.

    Attributes:
      name: unique within the computation.
      operation: opcode: "fusion", "all-gather", ...
      result: the arrays of the result, one unless it is a tuple.
      operands: names of instructions of the same computation; of a constant its value, of a
        parameter its number.
      rest: the line after the operands: attributes, metadata, backend config.
    """

    name: str
    operation: str
    result: tuple[HloArray, ...]
    operands: tuple[str, ...]
    rest: str

    def attribute(self, name: str) -> str | None:
        """Return the value of an attribute, e.g. the computation named by `calls=%...`."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return match and match[1]

    @property
    def cycles(self) -> int:
        """The compiler's cycle estimate; 0 if it gives none."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match[1]) if match else 0

    @property
    def op_name(self) -> str:
        """JAX's op_name: where in the model the instruction comes from."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""


@dataclasses.dataclass
class HloComputation:
    """A function of the program, with its instructions in scheduled order."""

    name: str
    instructions: dict[str, HloInstruction]


@dataclasses.dataclass
class HloProgram:
    """All computations of a program, and the name of the entry computation."""

    computations: dict[str, HloComputation]
    entry: str

    def called_computation(self, instruction: HloInstruction) -> HloComputation | None:
        """Return the computation that a fusion, async start or call runs; None for others."""
        name = instruction.attribute("calls") or instruction.attribute("to_apply")
        return self.computations.get(name or "")

    def nested_instructions(
        self, instruction: HloInstruction
    ) -> Iterator[tuple[HloComputation, HloInstruction]]:
        """Yield (computation, instruction) for all instructions that an instruction runs."""
        below = self.called_computation(instruction)
        if below is None:
            return
        for inner in below.instructions.values():
            yield below, inner
            if inner.operation in ("fusion", "call"):
                yield from self.nested_instructions(inner)


def parse_program(text: str) -> HloProgram:
    """Parse the result of jax.stages.Compiled.as_text().

    Raises:
      ValueError: the text contains no program.
    """
    computations: dict[str, HloComputation] = {}
    entry, here = "", None
    for line in text.splitlines():
        if line and not line[0].isspace():
            match = _COMPUTATION.match(line)
            here = None
            if match:
                here = computations[match[2]] = HloComputation(match[2], {})
                entry = match[2] if match[1] else entry
        elif here is not None and (instruction := _parse_instruction(line)):
            here.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("not the text of a compiled program")
    return HloProgram(computations, entry)


def _parse_instruction(line: str) -> HloInstruction | None:
    start = _INSTRUCTION.match(line)
    if not start:
        return None
    at = start.end()
    end = _after_bracket(line, at) if line[at] == "(" else line.index(" ", at)
    # A tuple's arrays may be followed by comments. A space always precedes the operation.
    arrays = tuple(
        HloArray(
            kind,
            tuple(int(size) for size in sizes.split(",") if size),
            in_hbm=not re.search(r"S\(\d+\)", layout or ""),
        )
        for kind, sizes, layout in _ARRAY.findall(line[at:end])
    )
    operation = _OPERATION.match(line, end)
    if not operation:
        return None
    opening = operation.end() - 1
    closing = _after_bracket(line, opening)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[opening:closing]))
    if operation[1] in ("constant", "parameter"):
        operands = (line[opening + 1 : closing - 1],)  # a constant's value, a parameter's number
    return HloInstruction(start[1], operation[1], arrays, operands, line[closing:])


def _after_bracket(line: str, opening: int) -> int:
    """Return the index after the bracket that closes the one at `opening`."""
    depth = 0
    for i in range(opening, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if depth == 0:
            return i + 1
    return len(line)


def trip_count(program: HloProgram, loop: HloInstruction) -> int:
    """Return the trip count of a while loop made by `lax.scan` or `fori_loop`.

    It is the compiler's known_trip_count or the constant in the loop's condition.

    Raises:
      ValueError: the condition does not have exactly one integer constant.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = program.computations[loop.attribute("condition") or ""]
    found = [
        int(x.operands[0])
        for x in condition.instructions.values()
        if x.operation == "constant" and x.result[0].dtype in ("s32", "u32", "s64")
    ]
    if len(found) != 1:
        raise ValueError(f"the trip count of {loop.name} is unknown: constants {found}")
    return found[0]


def matmul_flops(computation: HloComputation, instruction: HloInstruction) -> float:
    """Count the FLOPs of a dot or convolution, two per multiply-add; 0 for others.

    XLA:TPU writes every matmul as a convolution. Window positions on padding or between dilated
    elements are not counted.
    """
    if instruction.operation not in ("dot", "convolution"):
        return 0.0
    left, right = (computation.instructions[name].result[0].sizes for name in instruction.operands)
    out = instruction.result[0].sizes
    if instruction.operation == "dot":
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        contracted = [int(i) for i in match[1].split(",") if i] if match else []
        return 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)
    labels = instruction.attribute("dim_labels") or ""
    match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    if not match:
        raise ValueError(f"{instruction.name}: dim_labels {labels!r}")
    of_left, of_right, of_out = match.groups()
    work = 2.0 * out[of_out.index("b")] * out[of_out.index("f")] * right[of_right.index("i")]
    window = _parse_window(instruction.rest, sum(c.isdigit() for c in of_out))
    for i, dimension in enumerate(c for c in sorted(of_out) if c.isdigit()):
        work *= _window_positions(
            size=left[of_left.index(dimension)],
            out=out[of_out.index(dimension)],
            **{name: values[i] for name, values in window.items()},
        )
    return work


def _parse_window(rest: str, dimensions: int) -> dict[str, list[int]]:
    """Parse a convolution's window into the arguments of `_window_positions`, per dimension."""
    match = re.search(r"window=\{([^}]*)\}", rest)
    given = dict(part.split("=", 1) for part in match[1].split()) if match else {}

    def values(name: str, default: int) -> list[int]:
        text = given.get(name)
        return [int(x) for x in text.split("x")] if text else [default] * dimensions

    pads = given["pad"].split("x") if "pad" in given else ["0_0"] * dimensions
    return {
        "taps": values("size", 1),
        "stride": values("stride", 1),
        "low": [int(pad.split("_")[0]) for pad in pads],
        "dilation": values("rhs_dilate", 1),
        "base": values("lhs_dilate", 1),
    }


def _window_positions(
    size: int, out: int, taps: int, stride: int, low: int, dilation: int, base: int
) -> int:
    """Count pairs of output position and tap that hit an element, along one dimension."""
    at = np.arange(out)[:, None] * stride + np.arange(taps)[None] * dilation - low
    return int(np.sum((at >= 0) & (at < (size - 1) * base + 1) & (at % base == 0)))


def hbm_bytes(
    program: HloProgram, computation: HloComputation, instruction: HloInstruction
) -> float:
    """Count the bytes that an instruction must read from and write to HBM.

    If a fusion only slices an operand, the slices count. If it updates an operand in place, the
    update counts twice. Arrays in VMEM do not count, nor do arrays of an asynchronous collective
    that a fusion merely passes through.
    """
    if instruction.operation in ("bitcast", "tuple", "get-tuple-element", "parameter", "constant"):
        return 0.0
    fused = program.called_computation(instruction) if instruction.operation == "fusion" else None
    if fused is None:
        read_from = [computation.instructions.get(name) for name in instruction.operands]
        if instruction.operation == "dynamic-update-slice":
            update = read_from[1]
            return 2 * _in_hbm(update.result) if update else 0.0
        taken = 0.0 if instruction.operation in ("dynamic-slice", "slice") else 1.0
        sources = sum(_in_hbm(x.result) for x in read_from if x)
        return _in_hbm(instruction.result) * (2 - taken) + taken * sources
    total = 0.0
    in_place: set[HloArray] = set()
    operands, results = _passed_through(fused)
    for number, name in enumerate(instruction.operands):
        source = computation.instructions.get(name)
        if source is None or not source.result or not source.result[0].in_hbm:
            continue
        if number in operands:
            continue
        whole = source.result[0].bytes if len(source.result) == 1 else 0.0
        used, updated = _operand_use(fused, number)
        if updated:
            in_place.add(source.result[0])
        total += whole if used is None else min(used, whole)
    for number, array in enumerate(instruction.result):
        if number in results:
            continue
        if array.in_hbm and not any(
            array.sizes == other.sizes and array.dtype == other.dtype for other in in_place
        ):
            total += array.bytes
    return total


def _passed_through(fused: HloComputation) -> tuple[set[int], set[int]]:
    """Return the indices of a fusion's operands and results that belong to a running collective."""
    inside = fused.instructions
    collectives = {x.name for x in inside.values() if x.operation in COLLECTIVES}
    root = list(inside.values())[-1]
    if not collectives or root.operation != "tuple":
        return set(), set()
    users: dict[str, set[str]] = {}
    for x in inside.values():
        for name in x.operands:
            users.setdefault(name, set()).add(x.name)
    passing = {
        x.name
        for x in inside.values()
        if x.operation == "parameter" and users.get(x.name, set()) <= collectives | {root.name}
    }
    operands = {int(inside[name].operands[0]) for name in passing}
    results = {i for i, name in enumerate(root.operands) if name in passing | collectives}
    return operands, results


def _in_hbm(arrays: tuple[HloArray, ...]) -> float:
    return sum(array.bytes for array in arrays if array.in_hbm)


def _operand_use(fused: HloComputation, number: int) -> tuple[float | None, bool]:
    """Return the bytes used of an operand (None: all), and whether it is updated in place."""
    parameter = next(
        (
            x
            for x in fused.instructions.values()
            if x.operation == "parameter" and x.operands == (str(number),)
        ),
        None,
    )
    if parameter is None:
        return None, False
    total, updated = 0.0, False
    same = {parameter.name}
    for x in fused.instructions.values():
        if not same & set(x.operands):
            continue
        if x.operation == "bitcast":
            same.add(x.name)
        elif x.operation in ("dynamic-slice", "slice"):
            total += x.result[0].bytes
        elif x.operation == "dynamic-update-slice" and x.operands[0] in same:
            update = fused.instructions.get(x.operands[1])
            total += 2 * update.result[0].bytes if update else 0.0
            updated = True
        else:
            return None, updated
    return total, updated
