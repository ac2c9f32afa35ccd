"""Parse hand-written text, for which all numbers are known, and compiled programs."""

import textwrap

import jax
import jax.numpy as jnp
import pytest

from step1x_jax.planning import hlo

TEXT = """
HloModule step, is_scheduled=true

%fused (p0: bf16[7,64,128], p1: s32[], p2: bf16[32,64]) -> bf16[32,128] {
  %p0 = bf16[7,64,128]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = bf16[1,64,128]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), \
dynamic_slice_sizes={1,64,128}
  %w = bf16[64,128]{1,0} bitcast(%slice)
  %p2 = bf16[32,64]{1,0} parameter(2)
  ROOT %conv = bf16[32,128]{1,0} convolution(%p2, %w), dim_labels=bf_io->bf
}

%keep (a: bf16[7,32,128], b: bf16[32,128], c: s32[]) -> bf16[7,32,128] {
  %a = bf16[7,32,128]{2,1,0} parameter(0)
  %b = bf16[32,128]{1,0} parameter(1)
  %c = s32[] parameter(2)
  %n = s32[] constant(0)
  %wide = bf16[1,32,128]{2,1,0} bitcast(%b)
  ROOT %put = bf16[7,32,128]{2,1,0} dynamic-update-slice(%a, %wide, %c, %n, %n)
}

%body (s: (s32[], bf16[7,64,128], bf16[32,64], bf16[7,32,128])) -> (s32[], bf16[7,64,128]) {
  %s = (s32[]{:T(128)}, bf16[7,64,128]{2,1,0}, bf16[32,64]{1,0:T(8,128)(2,1)S(1)}, \
/*index=3*/bf16[7,32,128]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %ws = bf16[7,64,128]{2,1,0} get-tuple-element(%s), index=1
  %x = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%s), index=2
  %kept = bf16[7,32,128]{2,1,0} get-tuple-element(%s), index=3
  %matmul = bf16[32,128]{1,0} fusion(%ws, %i, %x), kind=kOutput, calls=%fused, \
metadata={op_name="jit(f)/while/body/dot_general"}, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  %stored = bf16[7,32,128]{2,1,0} fusion(%kept, %matmul, %i), kind=kLoop, calls=%keep
  ROOT %out = (s32[], bf16[7,64,128]) tuple(%i, %ws)
}

%condition (c: (s32[], bf16[7,64,128])) -> pred[] {
  %c = (s32[], bf16[7,64,128]{2,1,0}) parameter(0)
  %at = s32[] get-tuple-element(%c), index=0
  %bound = s32[] constant(7)
  ROOT %less = pred[] compare(%at, %bound), direction=LT
}

ENTRY %main (w: bf16[7,64,128]) -> bf16[7,64,128] {
  %w = bf16[7,64,128]{2,1,0} parameter(0)
  %init = (s32[], bf16[7,64,128]) tuple(%w, %w)
  %loop = (s32[], bf16[7,64,128]) while(%init), condition=%condition, body=%body
  ROOT %result = bf16[7,64,128]{2,1,0} get-tuple-element(%loop), index=1
}
"""


@pytest.fixture(scope="module")
def program():
    return hlo.parse_program(textwrap.dedent(TEXT))


def test_computations_and_the_entry(program):
    assert program.entry == "main"
    assert set(program.computations) == {"fused", "keep", "body", "condition", "main"}
    matmul = program.computations["body"].instructions["matmul"]
    assert (matmul.operation, matmul.operands) == ("fusion", ("ws", "i", "x"))
    assert matmul.cycles == 1000
    assert matmul.op_name == "jit(f)/while/body/dot_general"
    assert [i.name for _, i in program.nested_instructions(matmul)][-1] == "conv"


def test_tuples_and_memory_spaces(program):
    state = program.computations["body"].instructions["s"].result
    assert [array.sizes for array in state] == [(), (7, 64, 128), (32, 64), (7, 32, 128)]
    assert [array.in_hbm for array in state] == [True, True, False, True]


def test_trip_counts(program):
    loop = program.computations["main"].instructions["loop"]
    assert hlo.trip_count(program, loop) == 7
    known = loop.rest + ', backend_config={"known_trip_count":{"n":"12"}}'
    assert hlo.trip_count(program, hlo.HloInstruction("l", "while", (), (), known)) == 12


def test_a_collective_under_way_in_a_fusion_counts_nothing():
    """XLA:TPU passes its shard and its result through a fused matmul."""
    program = hlo.parse_program("""
%carrying (p0: bf16[8,64], p1: bf16[64,16], p2: bf16[16,4], p3: bf16[16,64]) -> (bf16[8,16]) {
  %p0 = bf16[8,64]{1,0} parameter(0)
  %p1 = bf16[64,16]{1,0} parameter(1)
  %p2 = bf16[16,4]{1,0} parameter(2)
  %p3 = bf16[16,64]{1,0} parameter(3)
  %conv = bf16[8,16]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
  %gathered = bf16[16,64]{1,0} all-gather(%p2), dimensions={1}
  ROOT %all = (bf16[8,16], bf16[16,4], bf16[16,64], bf16[16,64]) tuple(%conv, %p2, %p3, %gathered)
}

ENTRY %main (x: bf16[8,64], w: bf16[64,16], part: bf16[16,4], whole: bf16[16,64]) -> bf16[8,16] {
  %x = bf16[8,64]{1,0} parameter(0)
  %w = bf16[64,16]{1,0} parameter(1)
  %part = bf16[16,4]{1,0} parameter(2)
  %whole = bf16[16,64]{1,0} parameter(3)
  ROOT %f = (bf16[8,16], bf16[16,4], bf16[16,64], bf16[16,64]) fusion(%x, %w, %part, %whole), \
calls=%carrying
}
""")
    main = program.computations["main"]
    got = hlo.hbm_bytes(program, main, main.instructions["f"])
    assert got == 2 * (8 * 64 + 64 * 16 + 8 * 16)


def test_a_slice_of_a_stack_counts_and_not_the_stack(program):
    body = program.computations["body"]
    matmul, stored = body.instructions["matmul"], body.instructions["stored"]
    # One layer's weights and the output; the activations are in VMEM, the index has 4 bytes.
    assert hlo.hbm_bytes(program, body, matmul) == 2 * 64 * 128 + 2 * 32 * 128 + 4
    # The update is read, and its destination is read and written; not the other six layers.
    assert hlo.hbm_bytes(program, body, stored) == (1 + 2) * 2 * 32 * 128 + 4


@pytest.mark.parametrize(
    ("shapes", "line", "flops"),
    [
        # plain, and with both operands transposed
        (("32,64", "64,128"), "bf16[32,128] convolution(%l, %r), dim_labels=bf_io->bf", 524288),
        (("64,32", "128,64"), "bf16[32,128] convolution(%l, %r), dim_labels=fb_oi->bf", 524288),
        # contraction over two axes, one of them written as a window over the whole of it
        (
            ("5,32,8", "5,8,16"),
            "bf16[1,32,16] convolution(%l, %r), window={size=5}, dim_labels=0bf_0io->0bf",
            2 * 32 * 16 * 8 * 5,
        ),
        # an axis of the weights only: every place of the result meets one tap, the rest is padding
        (
            ("1,32,8", "3,8,16"),
            "bf16[3,32,16] convolution(%l, %r), window={size=3 pad=2_2 rhs_reversal=1},"
            " dim_labels=0bf_0io->0bf",
            2 * 3 * 32 * 16 * 8,
        ),
        # an axis of both, as a dilated window
        (
            ("4,32,8", "4,8,16"),
            "bf16[4,32,16] convolution(%l, %r), window={size=4 stride=3 lhs_dilate=4},"
            " dim_labels=0bf_0io->0bf",
            2 * 4 * 32 * 16 * 8,
        ),
        (
            ("32,64", "64,128"),
            "f32[32,128] dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            524288,
        ),
    ],
)
def test_operations_of_matmuls(shapes, line, flops):
    left, right = shapes
    text = (
        f"ENTRY %m (l: f32[]) -> f32[] {{\n  %l = bf16[{left}] parameter(0)\n"
        f"  %r = bf16[{right}] parameter(1)\n  ROOT %x = {line}\n}}"
    )
    computation = hlo.parse_program(text).computations["m"]
    assert hlo.matmul_flops(computation, computation.instructions["x"]) == flops


def test_a_compiled_scan_has_the_operations_of_its_steps():
    """21 x 48 by 48 x 48, eleven times, compiled by the local backend."""

    def run(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    compiled = jax.jit(run).lower(jnp.ones((21, 48)), jnp.ones((11, 48, 48))).compile()
    program = hlo.parse_program(compiled.as_text())
    total = 0.0

    def walk(computation, times):
        nonlocal total
        for x in computation.instructions.values():
            if x.operation == "while":
                trips = hlo.trip_count(program, x)
                walk(program.computations[x.attribute("body")], times * trips)
            total += times * hlo.matmul_flops(computation, x)
            if x.operation == "fusion":
                total += times * sum(
                    hlo.matmul_flops(c, i) for c, i in program.nested_instructions(x)
                )
            if x.operation == "call":
                walk(program.called_computation(x), times)

    walk(program.computations[program.entry], 1)
    assert total == 2 * 21 * 48 * 48 * 11


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="not the text of a compiled program"):
        hlo.parse_program("something else")
