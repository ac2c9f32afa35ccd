"""Estimates of hand-written schedules against times computed by hand."""

import pytest

from step1x_jax.planning import hlo
from step1x_jax.planning.chips import CHIPS, parse_topology
from step1x_jax.planning.estimate import LATENCY, KernelTime, estimate
from step1x_jax.planning.kernel_cycles import TABLE, LoopBundles, count_loop_bundles, kernel_time

TOPOLOGY = parse_topology("v5p:4x4x4")
CHIP = TOPOLOGY.chip
GROUP = (4, 4, 4)
BUSY = 'backend_config={"window_config":{"estimated_cycles":"1750000"}}'  # 1 ms at 1.75 GHz
HALF = BUSY.replace("1750000", "875000")
SHARD, WHOLE = "bf16[1024,4096]", "bf16[65536,4096]"
ON_THE_WIRE = 65536 * 4096 * 2 * 63 / 64 / 540e9 + LATENCY * 9  # all six links of a chip
GROUPS = "replica_groups=mesh['fsdp'=64] {'fsdp'}"

ASYNC = f"""
%begin (p: {SHARD}) -> ({SHARD}, {WHOLE}) {{
  %p = {SHARD} parameter(0)
  %g = {WHOLE} all-gather(%p), {GROUPS}, frontend_attributes={{chain_id="7"}}
  ROOT %c = ({SHARD}, {WHOLE}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}

%go_on (p: {SHARD}, x: f32[8]) -> ({SHARD}, f32[8]) {{
  %p = {SHARD} parameter(0)
  %x = f32[8] parameter(1)
  %g = {WHOLE} all-gather(%p), {GROUPS}, frontend_attributes={{chain_id="7"}}
  ROOT %t = ({SHARD}, f32[8]) tuple(%p, %x)
}}

%end (p: {SHARD}) -> {WHOLE} {{
  %p = {SHARD} parameter(0)
  %g = {WHOLE} all-gather(%p), {GROUPS}, frontend_attributes={{chain_id="7"}}
  ROOT %c = {WHOLE} custom-call(%g), custom_call_target="AsyncCollectiveDone"
}}
"""


def run(lines, others="", kernel=lambda x: None, spans=False):
    body = "\n".join(f"  {line}" for line in lines)
    text = (
        f"{others}\nENTRY %main (p: {SHARD}) -> f32[] {{\n  %p = {SHARD} parameter(0)\n{body}\n}}"
    )
    return estimate(hlo.parse_program(text), TOPOLOGY, lambda size: (GROUP, spans), kernel)


def test_cycles_bytes_and_the_peak_each_are_a_floor():
    by_cycles = run([f"%a = f32[8] add(%x, %x), {BUSY}"])
    assert by_cycles.seconds["rest"] == pytest.approx(1e-3)
    by_bytes = run(["%x = f32[250000000] iota()", "%a = f32[250000000] negate(%x)"])
    assert by_bytes.seconds["rest"] == pytest.approx(3 * 1e9 / CHIP.hbm_bandwidth)
    matmul = ["%l = bf16[8192,8192] iota()", "%a = bf16[8192,8192] convolution(%l, %l),"
              " dim_labels=bf_io->bf"]  # fmt: skip
    assert run(matmul).seconds["matmuls"] == pytest.approx(2 * 8192**3 / CHIP.peak)
    assert run(matmul).matmul_flops == 2 * 8192**3


def test_broadcasts_count_their_bytes_alone():
    found = run([f"%a = f32[1000] broadcast(%x), {BUSY}"])
    assert found.total == pytest.approx(4000 / CHIP.hbm_bandwidth)


def test_a_plain_collective_stops_everything():
    found = run([f"%g = {WHOLE} all-gather(%p), {GROUPS}", f"%a = f32[8] add(%x, %x), {BUSY}"])
    assert found.seconds["exposed_collectives"] == pytest.approx(ON_THE_WIRE)
    assert found.total == pytest.approx(ON_THE_WIRE + 1e-3)
    gather = found.collectives["all-gather"]
    assert (gather.count, gather.bytes, gather.async_bytes) == (1, 65536 * 4096 * 2, 0)


@pytest.mark.parametrize("order", ["", ", device_ids=([4,16]T(1,0))"])
def test_a_group_may_be_a_part_of_the_mesh(order):
    groups = f"replica_groups=mesh['fsdp'=16,'data'=4]{order} {{'fsdp'}}"
    found = run([f"%g = {SHARD} reduce-scatter(%w), {groups}"])
    assert found.collectives["reduce-scatter"].bytes == 16 * 1024 * 4096 * 2


def test_an_all_reduce_goes_there_and_back_and_a_scatter_starts_with_all():
    there_and_back = run([f"%g = {WHOLE} all-reduce(%w), {GROUPS}"])
    scatter = run([f"%g = {SHARD} reduce-scatter(%w), {GROUPS}"])
    assert there_and_back.total == pytest.approx(2 * ON_THE_WIRE, rel=0.01)  # one latency
    assert scatter.total == pytest.approx(ON_THE_WIRE)


def test_a_fusion_of_all_reduce_and_slice_is_a_scatter_that_stops_everything():
    fused = f"""
%all-reduce-scatter (p: {WHOLE}) -> {SHARD} {{
  %p = {WHOLE} parameter(0)
  %r = {WHOLE} all-reduce(%p), {GROUPS}
  %i = u32[] partition-id()
  ROOT %s = {SHARD} dynamic-slice(%r, %i, %i)
}}
"""
    found = run([f"%f = {SHARD} fusion(%w), kind=kCustom, calls=%all-reduce-scatter"], fused)
    assert found.seconds["exposed_collectives"] == pytest.approx(ON_THE_WIRE)
    assert found.collectives["reduce-scatter"].bytes == 65536 * 4096 * 2
    assert set(found.collectives) == {"reduce-scatter"}


def test_between_slices_the_slower_network_counts():
    assert run([f"%g = {WHOLE} all-gather(%p), {GROUPS}"], spans=True).total > 50 * ON_THE_WIRE


@pytest.mark.parametrize("halves", [0, 1, 3])
def test_of_a_start_and_done_what_is_not_covered_is_exposed(halves):
    lines = [
        f"%s = ({SHARD}, {WHOLE}) all-gather-start(%p), {GROUPS}",
        *[f"%a{i} = f32[8] add(%x, %x), {HALF}" for i in range(halves)],
        f"%d = {WHOLE} all-gather-done(%s)",
    ]
    found = run(lines)
    exposed = max(0.0, ON_THE_WIRE - 0.5e-3 * halves)
    assert found.seconds["exposed_collectives"] == pytest.approx(exposed)
    assert found.collectives["all-gather"].async_bytes == 65536 * 4096 * 2


def test_a_collective_fused_into_matmuls_counts_once_and_is_hidden():
    lines = [
        f"%s = ({SHARD}, {WHOLE}) fusion(%p), kind=kCustom, calls=%begin",
        f"%m = ({SHARD}, f32[8]) fusion(%p, %x), kind=kOutput, calls=%go_on, {BUSY}",
        f"%n = ({SHARD}, f32[8]) fusion(%p, %x), kind=kOutput, calls=%go_on, {BUSY}",
        f"%d = {WHOLE} fusion(%p), kind=kCustom, calls=%end",
    ]
    found = run(lines, ASYNC)
    assert found.collectives["all-gather"].count == 1
    assert found.seconds["exposed_collectives"] == 0
    assert found.total == pytest.approx(2e-3, rel=0.02)  # and 8 MB of memory each
    alone = run([lines[0], lines[3]], ASYNC)
    assert alone.seconds["exposed_collectives"] == pytest.approx(ON_THE_WIRE)


def test_two_collectives_share_the_links():
    lines = [
        f"%s = ({SHARD}, {WHOLE}) all-gather-start(%p), {GROUPS}",
        f"%t = ({SHARD}, {WHOLE}) all-gather-start(%p), {GROUPS}",
        f"%d = {WHOLE} all-gather-done(%s)",
        f"%e = {WHOLE} all-gather-done(%t)",
    ]
    assert run(lines).total == pytest.approx(2 * ON_THE_WIRE)


def test_loops_count_as_often_as_they_run():
    others = (
        "%body (s: s32[]) -> s32[] {\n  %s = s32[] parameter(0)\n"
        f"  ROOT %a = f32[8] add(%x, %x), {BUSY}\n}}\n\n"
        "%until (s: s32[]) -> pred[] {\n  %n = s32[] constant(9)\n"
        "  ROOT %l = pred[] compare(%s, %n), direction=LT\n}"
    )
    found = run(["%w = s32[] while(%p), condition=%until, body=%body"], others)
    assert found.total == pytest.approx(9e-3)


def test_no_total_below_all_bytes_at_the_bandwidth():
    """Copies overlap with work but use memory bandwidth: 4 GB to VMEM beside 0.5 ms of work."""
    copied = "(f32[1000000000]{0:S(1)}, f32[1000000000], u32[])"
    lines = [f"%c = {copied} copy-start(%p)", f"%a = f32[8] add(%x, %x), {HALF}"]
    lines.append("%d = f32[1000000000]{0:S(1)} copy-done(%c)")
    found = run(lines)
    assert found.total == pytest.approx(4e9 / CHIP.hbm_bandwidth, rel=1e-3)


def test_a_kernel_without_cycles_is_named():
    line = '%k.1 = bf16[1,2,8,128] custom-call(%p), custom_call_target="tpu_custom_call"'
    found = run([line], kernel=lambda x: KernelTime(None, 5.0, 2e-3))
    assert (found.unknown_kernels, found.kernel_flops, found.total) == (("k",), 5.0, 2e-3)


def kernel(name, shape, heads=24):
    line = f"%{name} = (bf16[{shape}], f32[1,{heads},1,1]) custom-call(%p)"
    text = f"ENTRY %main (p: f32[]) -> f32[] {{\n  {line}\n}}"
    return hlo.parse_program(text).computations["main"].instructions[name]


def test_kernels_by_the_table():
    """24 heads of 8960 tokens, 14 blocks of 14 chunks, on the two cores of v5p."""
    shape = "2,8960,3072"
    loops = TABLE["v5p", "backward", 640, 640]
    one = 14 * (14 * loops.chunk + loops.block) + 14 * loops.head
    found = kernel_time(kernel("backward_kernel.3", shape), CHIP)
    assert found.seconds == pytest.approx(2 * 12 * one / 1.75e9)
    assert found.flops == 2 * 24 * 10 * 8960**2 * 128
    assert found.lower_bound == pytest.approx(found.flops / 459e12)
    assert kernel_time(kernel("forward_kernel.1", shape), CHIP).flops == found.flops / 2.5
    assert kernel_time(kernel("another.1", shape), CHIP) is None
    assert kernel_time(kernel("forward_kernel.1", "1,1000,512", heads=4), CHIP).seconds is None
    # A head of width 128 uses half of an MXU of v6e.
    half = kernel_time(kernel("forward_kernel.1", shape), CHIPS["v6e"])
    assert half.lower_bound == pytest.approx(half.flops / 459e12)


def test_loops_are_read_from_a_schedule():
    schedule = """
     0   :  { one }
   0x1 LB: > { the grid }
   0x2 LB: >> { prepare }
   0x3   : >> { prepare }
   0x4   : > { between }
   0x5 LB: >> { attend }
   0x6   : >> { attend }
   0x7   : >> { attend }
   0x8   : > { sbr.rel past the mask }
   0x9   : > { vmatmul with a mask }
   0xa   : > { sbr.rel with a mask }
   0xb   : > { between }
   0xc LB: >> { attend, with a maximum }
   0xd PF: > { after }
"""
    # Without the masked chunk, which is counted as a chunk.
    assert count_loop_bundles(schedule, "forward") == LoopBundles(chunk=3, block=6, head=2)
    schedule += """
   0xe LB: >> { finish }
   0xf   : > { end }
"""
    # All bundles outside of loops but those of the masked gradients.
    assert count_loop_bundles(schedule, "backward") == LoopBundles(chunk=3, block=8, head=3)
    schedule = schedule.replace(">> { finish", "> { finish")
    with pytest.raises(ValueError, match="backward: loops"):
        count_loop_bundles(schedule, "backward")
