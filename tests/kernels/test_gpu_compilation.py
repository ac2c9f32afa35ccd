"""The Hopper kernels at the release's shape, compiled on a machine without GPUs.

Every JAX can lower them. With JAX's CUDA plugin and NVIDIA's assembler (the second test
environment) they are also compiled to machine code, which reports their register use.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from step1x_jax.errors import UserError
from step1x_jax.kernels.attention import choose
from tests.kernels import gpus
from tests.kernels.checks import attention, qk_norm_rope_attention

HEADS, TOKENS, WIDTH = 24, 8832, 128
MIB = 2**20
KERNEL = r"custom_call @mosaic_gpu"


def loss(entry, total_keys, q, k, v, q_scale, k_scale, rope, lengths):
    keys = {"kv_lengths": lengths, "total_keys": total_keys}
    if entry == "plain":
        out = attention(q, k, v, **keys, implementation="pallas_gpu")
    else:
        run = partial(qk_norm_rope_attention, split=8192, **keys)
        out = run(q, k, v, q_scale, k_scale, rope, implementation="pallas_gpu")
    return jnp.sum(out.astype(jnp.float32) ** 2)


def step(entry, total_keys=TOKENS):
    return jax.jit(jax.value_and_grad(partial(loss, entry, total_keys), argnums=(0, 1, 2)))


def operands(sharding=None, batch=1):
    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    q = array(batch, TOKENS, HEADS, WIDTH, dtype=jnp.bfloat16)
    scales, rope = array(2, WIDTH), array(2, TOKENS, WIDTH)
    return q, q, q, scales, scales, rope, array(batch, dtype=jnp.int32)


@pytest.mark.parametrize("total_keys", [None, TOKENS])
@pytest.mark.parametrize("entry", ["plain", "fused"])
def test_forward_and_backward_are_lowered_for_cuda(entry, total_keys):
    """Checks shapes, layouts and shared memory of three kernels; the next test checks registers."""
    with jax.sharding.use_abstract_mesh(gpus.abstract_mesh()):
        traced = step(entry, total_keys).trace(*operands())
        lowered = traced.lower(lowering_platforms=("cuda",))
    assert len(re.findall(KERNEL, lowered.as_text())) == 3


def test_a_ring_of_gpus_is_lowered_for_cuda():
    """One loop per pass: a forward and two backward kernels."""
    with jax.sharding.use_abstract_mesh(gpus.abstract_mesh(sizes=(1, 2, 4, 1))):
        lowered = step("fused").trace(*operands(batch=2)).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert len(re.findall(KERNEL, text)) == 3
    assert (
        text.count("collective_permute") >= 2 + 4 + 2
    )  # k and v; the same and their gradients; dk and dv back


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["plain", "fused"])
def test_forward_and_backward_assemble_for_hopper(entry, monkeypatch, capfd):
    """Compiles to machine code; checks temporary memory and register spills."""
    mesh = gpus.h100_mesh()
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")
    with jax.set_mesh(mesh):
        inputs = operands(NamedSharding(mesh, PartitionSpec()))
        memory = step(entry).lower(*inputs).compile().memory_analysis()
    text = capfd.readouterr().out
    report = r"entry function '_(\w+)_kernel_mosaic.*?(\d+) bytes spill stores"
    spilled = {name: int(n) for name, n in re.findall(report, text, re.DOTALL)}
    with capfd.disabled():
        print(
            f"\n{entry}: temporaries {memory.temp_size_in_bytes / MIB:.0f} MiB,"
            f" bytes of registers spilled by a thread {spilled}"
        )
    # output, its gradient, rotated queries and keys; one head's logits would take 149 MiB
    assert memory.temp_size_in_bytes < 5 * HEADS * TOKENS * WIDTH * 2
    # the loops do not spill; norm and RoPE in the dk/dv kernel spill a little
    assert sorted(spilled) == ["dkv", "dq", "forward"]
    assert spilled["forward"] == 0
    assert max(spilled.values()) <= (0 if entry == "plain" else 128)


@pytest.mark.parametrize(
    ("kind", "dtype", "width", "reason"),
    [
        ("NVIDIA A100-SXM4-80GB", jnp.bfloat16, 128, "runs on Hopper GPUs .* not on NVIDIA A100"),
        ("NVIDIA H100 80GB HBM3", jnp.float32, 128, "needs bfloat16, not float32"),
        ("NVIDIA H200", jnp.bfloat16, 16, "needs a head width of 64 or 128, not 16"),
    ],
)
def test_unsupported_arguments_are_explained(kind, dtype, width, reason):
    with (
        jax.sharding.use_abstract_mesh(gpus.abstract_mesh(kind)),
        pytest.raises(UserError, match=f"pallas_gpu attention {reason}"),
    ):
        choose(width, dtype, implementation="pallas_gpu")


def test_default_implementation_on_gpus():
    """cuDNN until our kernel has run on a GPU; plain JAX for float32."""
    with jax.sharding.use_abstract_mesh(gpus.abstract_mesh()):
        assert choose(128, jnp.bfloat16) == "cudnn"
        assert choose(128, jnp.float32) == "xla"
