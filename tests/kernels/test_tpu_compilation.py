"""The TPU kernels compiled at the release's shape, on a machine without TPUs (extra [tpu])."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from step1x_jax.kernels.attention_tpu import MAX_TOKENS
from step1x_jax.parallel.compiler_options import compiler_options
from tests.kernels.checks import attention, qk_norm_rope_attention

AXES = ("data", "fsdp", "sequence", "tensor")
HEADS, TOKENS, WIDTH = 24, 8832, 128  # 1024 px: 2 x 4096 image tokens, 640 text tokens
MIB = 2**20
WHOLE = PartitionSpec()


def tpu_mesh(topology, monkeypatch, axis="fsdp"):
    """Returns a mesh of all chips of a topology along one axis. Skips the test without libtpu."""
    pytest.importorskip("libtpu", reason="needs the extra [tpu]")
    from jax.experimental import topologies

    jax.devices()  # sets up the CPU devices of other tests before XLA_FLAGS is removed:
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # libtpu rejects flags of the CPU backend
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # other tests may use it concurrently
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    sizes = [len(devices) if name == axis else 1 for name in AXES]
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("entry", ["plain", "fused"])
def test_forward_and_backward_compile_and_store_no_logits(topology, entry, monkeypatch):
    """The ambient mesh sets the platform, so the TPU kernels are chosen by default."""
    mesh = tpu_mesh(topology, monkeypatch)
    chips = mesh.size

    def array(*shape, dtype=jnp.bfloat16, spec=WHOLE):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    split = PartitionSpec(AXES[:2])
    q = array(chips, TOKENS, HEADS, WIDTH, spec=split)
    lengths = array(chips, dtype=jnp.int32, spec=split)
    scales = array(2, WIDTH, dtype=jnp.float32)
    rope = array(2, TOKENS, WIDTH, dtype=jnp.float32)

    def loss(q, k, v, q_scale, k_scale, rope, lengths):
        keys = {"kv_lengths": lengths, "total_keys": TOKENS}
        if entry == "plain":
            out = attention(q, k, v, **keys)
        else:
            run = partial(qk_norm_rope_attention, split=8192, **keys)
            out = run(q, k, v, q_scale, k_scale, rope)
        return jnp.sum(out.astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        start = time.perf_counter()
        compiled = step.lower(q, q, q, scales, scales, rope, lengths).compile()
    seconds, memory = time.perf_counter() - start, compiled.memory_analysis()
    text = compiled.as_text()
    print(
        f"{topology}, {entry}: compiled in {seconds:.1f} s, temporaries"
        f" {memory.temp_size_in_bytes / MIB:.0f} MiB a chip"
    )
    assert text.count("tpu_custom_call") >= 2
    # q, k, v, output and their padded copies; one head's bfloat16 logits would take 149 MiB
    assert memory.temp_size_in_bytes < 12 * HEADS * TOKENS * WIDTH * 2


@pytest.mark.slow
def test_max_tokens_fit_the_smallest_vmem(monkeypatch):
    """MAX_TOKENS tokens on v5p, which has 64 MiB of VMEM."""
    mesh = tpu_mesh("v5p:2x2x1", monkeypatch)
    place = NamedSharding(mesh, PartitionSpec("fsdp"))
    q = jax.ShapeDtypeStruct((4, MAX_TOKENS, HEADS, WIDTH), jnp.bfloat16, sharding=place)

    def loss(q, k, v):
        scales, rope = jnp.ones((2, WIDTH)), jnp.ones((2, MAX_TOKENS, WIDTH))
        out = qk_norm_rope_attention(q, k, v, scales, scales, rope, split=100)
        return jnp.sum(out.astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, q, q).compile()
    assert compiled.as_text().count("tpu_custom_call") >= 2


@pytest.mark.slow
def test_ring_transfers_overlap_with_the_kernel(monkeypatch):
    """Ring attention on v5p with training's compiler options: permutes run during each kernel."""
    mesh = tpu_mesh("v5p:2x2x1", monkeypatch, axis="sequence")
    place = NamedSharding(mesh, PartitionSpec(None, "sequence"))
    q = jax.ShapeDtypeStruct((1, TOKENS, HEADS, WIDTH), jnp.bfloat16, sharding=place)

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v).astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh):
        options = compiler_options(mesh.devices.flat[0])
        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), compiler_options=options)
        compiled = step.lower(q, q, q).compile()
    order = []  # events in the order of the schedule
    for line in compiled.as_text().splitlines():
        for event in ("collective-permute-start", "collective-permute-done"):
            if f" {event}(" in line:
                order.append(event.rpartition("-")[2])
        if 'custom_call_target="tpu_custom_call"' in line:
            order.append("kernel")
    print(" ".join(order))
    pending, overlapped = 0, 0
    for event in order:
        pending += {"start": 1, "done": -1, "kernel": 0}[event]
        overlapped += event == "kernel" and pending > 0
    assert order.count("kernel") == overlapped == 2  # one loop per pass
