"""Kernels under a mesh of 8 CPU devices: each device has its shard of batch and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.kernels.checks import Shape, norm_operands, operands, qk_norm_rope_attention

AXES = ("data", "fsdp", "sequence", "tensor")
SPLIT = 11


@pytest.mark.slow
@pytest.mark.parametrize("total_keys", [None, 40])
@pytest.mark.parametrize(
    ("sizes", "batch", "shard_shape"),
    [
        ((2, 2, 1, 2), 4, (1, 30, 2)),
        ((1, 8, 1, 1), 8, (1, 30, 4)),
        ((2, 4, 1, 1), 3, (3, 30, 4)),
        ((1, 2, 2, 2), 2, (1, 15, 2)),
        ((1, 1, 8, 1), 3, None),  # 30 tokens are padded to 32: the output's sharding is not fixed
    ],
    ids=["batch and heads", "batch", "indivisible batch", "batch, heads and tokens", "tokens"],
)
def test_results_are_the_same_under_a_mesh(sizes, batch, shard_shape, total_keys):
    lengths = (30, 1, 13, 28, 8, 7, 30, 15)  # some devices hold only padding; 8, 15: ends of shards
    shape = Shape(batch, 4, 4, 30, 30, 16, lengths[:batch])
    (q, k, v, do), lengths = operands(shape)
    q_scale, k_scale, rope = norm_operands(shape, SPLIT, 1.0)

    def loss(q, k, v, q_scale, k_scale, name):
        out = qk_norm_rope_attention(
            q, k, v, q_scale, k_scale, rope,
            split=SPLIT, kv_lengths=lengths, total_keys=total_keys, implementation=name,
        )  # fmt: skip
        return jnp.sum(out * do), out

    run = jax.jit(jax.value_and_grad(loss, argnums=range(5), has_aux=True), static_argnames="name")
    (_, want), want_gradients = run(q, k, v, q_scale, k_scale, name="xla")
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4)
    divisible = batch % (sizes[0] * sizes[1]) == 0
    sharding = NamedSharding(mesh, PartitionSpec(AXES[:2] if divisible else None))
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(x, sharding) for x in (q, k, v)]
        (_, got), gradients = run(*sharded, q_scale, k_scale, name="pallas_tpu")
    shard = got.sharding.shard_shape(got.shape)
    assert shard_shape is None or shard[:3] == shard_shape
    np.testing.assert_allclose(got, want, atol=2e-6)
    for ours, theirs in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)  # scales: sums over 1000 rows
