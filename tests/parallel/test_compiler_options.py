import jax

from step1x_jax.parallel.compiler_options import TABLE, compiler_options
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from tests.parallel.test_mesh import Chip


def test_a_mesh_has_the_options_of_its_platform():
    tpu = compiler_options(make_mesh(MeshConfig(data=2), [Chip(n) for n in range(8)]))
    assert tpu["xla_tpu_enable_async_collective_fusion"] is True
    assert set(tpu) == set(TABLE["tpu"])
    assert compiler_options(make_mesh(MeshConfig(), jax.devices())) == {}


def test_every_option_has_a_reason():
    for options in TABLE.values():
        assert all(len(reason) > 10 for _, reason in options.values())
