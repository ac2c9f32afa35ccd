"""A run's parameters as official tensors; adapters merged: test_lora.py."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from step1x_jax.errors import UserError
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training import checkpoint
from step1x_jax.training.checkpoint import Checkpoints, load_weights, restore_each
from step1x_jax.training.step import abstract_state, new_state
from step1x_jax.weights.load import load_model
from step1x_jax.weights.run import stored_arrays
from step1x_jax.weights.run.reader import opened_run
from step1x_jax.weights.run.stored_arrays import stored_array
from tests.training.tiny import tiny_config
from tests.weights.run.test_writer import GOLDEN, write


def run_of(path, mesh):
    """The golden weights as a run on a mesh would save them."""
    config = tiny_config()
    config.model = load_model(GOLDEN).config
    config.mesh = mesh
    abstract = abstract_state(config, make_mesh(mesh))
    state = new_state(config, abstract, load_weights(str(GOLDEN), config.model, abstract.params))
    checkpoints = Checkpoints(path, keep=1)
    checkpoints.save(state, config)
    checkpoints.close()
    return path


def check_same(tensors):
    for name, x in load_file(GOLDEN / "weights.safetensors").items():
        np.testing.assert_array_equal(tensors.read(name), x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("converted") / "weights")


def test_it_comes_back_bit_for_bit(folder, tmp_path):
    with opened_run(folder, tmp_path) as (tensors, config):
        assert config.model.version == "v1.0"
        want = load_file(GOLDEN / "weights.safetensors")
        assert tensors.shapes == {name: x.shape for name, x in want.items()}
        for name, x in want.items():
            np.testing.assert_array_equal(tensors.read(name), x)
            assert tensors.dtypes[name] == x.dtype
    assert list(tmp_path.iterdir()) == []  # the copy is gone


def test_a_changed_number_is_noticed(folder, tmp_path):
    """Of the last block of a stacked kernel, changed in the store itself."""
    shutil.copytree(folder, tmp_path / "changed")
    item = tmp_path / "changed" / "checkpoints" / "0" / checkpoint.WEIGHTS
    array = stored_array(item, "transformer.single_blocks.mlp_in.kernel")
    array[2, 0, 0].write(array[2, 0, 0].read().result() + 1).result()
    with (
        pytest.raises(UserError, match="no whole checkpoint"),
        opened_run(tmp_path / "changed", tmp_path),
    ):
        pass


def test_a_run_on_a_mesh_comes_back_from_its_parts(tmp_path):
    """Stored as eight devices had it, cut along several axes."""
    run = run_of(tmp_path / "run", MeshConfig(fsdp=4, tensor=2))
    blocks = []
    restore_each(run, lambda name, about, index, block: blocks.append(name))
    assert len(blocks) > 4 * len(set(blocks))
    with opened_run(run, tmp_path) as (tensors, _):
        check_same(tensors)


def test_what_one_device_had_is_stored_in_small_blocks(tmp_path, monkeypatch):
    """So that nobody who reads it needs room for the largest array; and uncompressed."""
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", 1 << 14)
    run = run_of(tmp_path / "run", MeshConfig(data=1))
    sizes = []
    restore_each(run, lambda name, about, index, block: sizes.append(block.nbytes))
    assert 1 << 13 < max(sizes) <= 1 << 14
    array = stored_array(
        run / "checkpoints" / "0" / "params", "transformer.single_blocks.mlp_in.kernel"
    )
    assert array.size * 4 > 1 << 16
    assert "zstd" not in str(array.spec().to_json()["metadata"])
    with opened_run(run, tmp_path) as (tensors, _):
        check_same(tensors)
