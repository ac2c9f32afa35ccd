import importlib

import jax
import pytest
from jax.sharding import AxisType

from step1x_jax.errors import UserError
from step1x_jax.parallel import mesh as mesh_module
from step1x_jax.parallel.mesh import AXES, MeshConfig, check_batch_size, make_mesh


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (1, 8, 1, 1)),
        (MeshConfig(data=2), (2, 4, 1, 1)),
        (MeshConfig(data=-1, fsdp=2), (4, 2, 1, 1)),
        (MeshConfig(data=8, fsdp=1), (8, 1, 1, 1)),
        (MeshConfig(sequence=2, tensor=2), (1, 2, 2, 2)),
        (MeshConfig(data=-1, fsdp=-1), (1, 8, 1, 1)),
        (MeshConfig(data=-1, fsdp=-1, tensor=2), (1, 4, 1, 2)),
        (MeshConfig(fsdp=2, sequence=-1), (1, 2, 4, 1)),
    ],
)
def test_sizes(config, sizes):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES == ("data", "fsdp", "sequence", "tensor")
    assert tuple(mesh.shape.values()) == sizes
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_subset_of_devices():
    assert make_mesh(MeshConfig(), jax.devices()[:2]).devices.size == 2


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(3, -1),
        MeshConfig(2, 2),
        MeshConfig(16, -1),
        MeshConfig(-1, 1, -1),
        MeshConfig(0, 8),
        MeshConfig(-1, -1, 3),
    ],
)
def test_sizes_that_do_not_fit_are_refused(config):
    with pytest.raises(UserError, match=r"mesh\.data"):
        make_mesh(config)


def test_batch_must_split_over_the_devices():
    mesh = make_mesh(MeshConfig(data=2))
    check_batch_size(16, mesh)
    with pytest.raises(UserError, match=r"data\.batch_size 12 .* 8 devices"):
        check_batch_size(12, mesh)


class Chip:
    """A fake TPU chip with the attributes that make_mesh reads; eight make two slices of 2 x 2."""

    platform, device_kind, core_on_chip, process_index = "tpu", "TPU v5", 0, 0

    def __init__(self, number):
        self.id, self.slice_index = number, number // 4
        self.coords = [number % 2, number // 2 % 2, 0]


def test_replicas_are_on_slices_and_shards_within_a_slice():
    chips = [Chip(n) for n in (0, 4, 1, 5, 2, 6, 3, 7)]
    mesh = make_mesh(MeshConfig(data=2), chips)
    assert mesh.axis_names == AXES
    assert mesh.devices.shape == (2, 4, 1, 1)
    assert [{chip.slice_index for chip in copy.flat} for copy in mesh.devices] == [{0}, {1}]


def test_automatic_data_and_fsdp_sizes(monkeypatch):
    chips = [Chip(n) for n in range(8)]
    assert make_mesh(MeshConfig(data=-1, fsdp=-1), chips).devices.shape == (2, 4, 1, 1)
    monkeypatch.setattr(mesh_module, "MAX_FSDP", 4)
    assert make_mesh(MeshConfig(data=-1, fsdp=-1)).devices.shape == (2, 4, 1, 1)


@pytest.mark.parametrize("name", ["finetune_512", "finetune_1024", "finetune_mixed", "lora"])
def test_release_configs_limit_fsdp(monkeypatch, name):
    monkeypatch.setattr(mesh_module, "MAX_FSDP", 4)
    config = importlib.import_module(f"configs.{name}").get_config()
    assert make_mesh(config.mesh).devices.shape == (2, 4, 1, 1)


def test_parameters_are_not_sharded_over_slices():
    chips = [Chip(n) for n in range(8)]
    with pytest.raises(UserError, match=r"mesh\.data=1 is not a multiple of the 2 slices"):
        make_mesh(MeshConfig(), chips)
