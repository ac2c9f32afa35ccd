import jax
import pytest
from jax.sharding import AxisType

from step1x_jax.errors import UserError
from step1x_jax.parallel.mesh import AXES, MeshConfig, check_batch_size, make_mesh


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (1, 8)),
        (MeshConfig(data=2), (2, 4)),
        (MeshConfig(data=-1, fsdp=2), (4, 2)),
        (MeshConfig(data=8, fsdp=1), (8, 1)),
    ],
)
def test_sizes(config, sizes):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES == ("data", "fsdp", "sequence", "tensor")
    assert tuple(mesh.shape.values()) == (*sizes, 1, 1)
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_part_of_the_devices():
    assert make_mesh(MeshConfig(), jax.devices()[:2]).devices.size == 2


@pytest.mark.parametrize(
    "config",
    [MeshConfig(3, -1), MeshConfig(2, 2), MeshConfig(16, -1), MeshConfig(-1, -1), MeshConfig(0, 8)],
)
def test_sizes_that_do_not_fit_are_an_error(config):
    with pytest.raises(UserError, match=r"mesh\.data"):
        make_mesh(config)


def test_batch_must_split_over_the_devices():
    mesh = make_mesh(MeshConfig(data=2))
    check_batch_size(16, mesh)
    with pytest.raises(UserError, match=r"data\.batch_size 12 .* 8 devices"):
        check_batch_size(12, mesh)
