"""The full-size text encoder compiled for TPUs that are not attached (needs the extra [tpu])."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.models.mllm.positions import Pictures, Prompts
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.parallel.rules import batch_sharding, shardings

BATCH_PER_CHIP = 4  # launch.precompute's default
PATCHES, TOKENS = 1296, 640  # the release's largest picture, and its prompt
GIB = 2**30


@pytest.mark.slow
def test_the_release_fits_on_four_chips(monkeypatch):
    """v5e has the least memory. The compilation itself fails if the program does not fit."""
    pytest.importorskip("libtpu", reason="needs the extra [tpu]")
    from jax.experimental import topologies

    jax.devices()  # sets up the CPU devices of other tests before XLA_FLAGS is removed:
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # libtpu rejects flags of the CPU backend
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # other tests may use it concurrently
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1), devices)
    graph, params = abstract_mllm(MLLMConfig())
    params = jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        params,
        shardings(params, mesh),
    )
    batch = BATCH_PER_CHIP * len(devices)

    def array(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=batch_sharding(mesh))

    width = MLLMConfig().vision.patch_width
    pictures = Pictures(array(PATCHES, width, dtype=jnp.float32), array(2, PATCHES), array(PATCHES))
    prompts = Prompts(array(TOKENS), array(3, TOKENS), array(TOKENS))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda params, *batch: nnx.merge(graph, params)(*batch))
        memory = run.lower(params, pictures, prompts).compile().memory_analysis()
    arguments, peak = memory.argument_size_in_bytes / GIB, memory.peak_memory_in_bytes / GIB
    print(f"v5e:2x2: arguments {arguments:.2f}, peak {peak:.2f} of 15.75 GiB a chip")
    # 7.75 billion bfloat16 parameters over four chips take 3.6 GiB: nothing is replicated.
    assert 3.6 < arguments < 3.8
    assert peak < 6
