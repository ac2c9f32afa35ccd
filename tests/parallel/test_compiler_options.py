import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from step1x_jax.parallel.compiler_options import TABLE, compiler_options
from tests.kernels.test_tpu_compilation import tpu_mesh
from tests.parallel.test_mesh import Chip


def test_devices_have_the_options_of_their_platform():
    tpu = compiler_options(Chip(0))
    assert tpu["xla_tpu_enable_async_collective_fusion"] is True
    assert set(tpu) == set(TABLE["tpu"])
    assert compiler_options(jax.devices()[0]) == {}


def test_every_option_has_a_reason():
    for options in TABLE.values():
        assert all(len(reason) > 10 for _, reason in options.values())


@pytest.mark.slow
def test_weight_gradient_is_one_matmul(monkeypatch):
    """The MLP kernel's gradient at 1024 px; by default the compiler would make 32 small matmuls."""
    mesh = tpu_mesh("v5p:2x4x4", monkeypatch)
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    x = jax.ShapeDtypeStruct((mesh.size, 8832, 3072), jnp.bfloat16, sharding=split)
    dy = jax.ShapeDtypeStruct((mesh.size, 8832, 12288), jnp.bfloat16, sharding=split)
    gradient = jax.jit(lambda x, dy: jnp.einsum("blf,bld->fd", x, dy), out_shardings=split)
    options = compiler_options(mesh.devices.flat[0])
    compiled = gradient.lower(x, dy).compile(compiler_options=options)
    assert "collective-permute" not in compiled.as_text()
