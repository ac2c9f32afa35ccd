"""A run's parameters as official tensors; merged adapters are in test_lora.py."""

import gc
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.step.train_step import abstract_state, init_state
from step1x_jax.weights.load import load_model
from step1x_jax.weights.run import stored_arrays
from step1x_jax.weights.run.description import WEIGHTS
from step1x_jax.weights.run.reader import RunFolder, RunTensors, iter_stored_blocks
from step1x_jax.weights.run.stored_arrays import open_array
from tests.training.tiny import tiny_config
from tests.weights.models import parameters_as
from tests.weights.run.test_damage import everything, without_rights
from tests.weights.run.test_writer import GOLDEN, write


def run_of(path, mesh):
    """The golden weights as a run on a mesh would save them."""
    config = override(tiny_config(), {"model": load_model(GOLDEN).config, "mesh": mesh})
    abstract = abstract_state(config, make_mesh(mesh))
    state = init_state(config, abstract, parameters_as(GOLDEN, config.model, abstract.params))
    checkpoints = Checkpoints(path, keep=1)
    checkpoints.save(state, config)
    checkpoints.close()
    return path


def check_same(tensors):
    for name, x in load_file(GOLDEN / "weights.safetensors").items():
        np.testing.assert_array_equal(tensors.read(name), x)
        rows = np.arange(0, len(x), 3)
        np.testing.assert_array_equal(tensors.read(name, rows), x[rows])


def parts_of(run):
    """Returns (name, block) of all blocks that a run has stored."""
    opened = RunFolder(run)
    path = run / "checkpoints" / str(opened.step)
    item = opened.description.trained
    return [(n, block) for n in opened.arrays for _, block in iter_stored_blocks(path, item, n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("converted") / "weights")


def test_it_comes_back_bit_for_bit(folder, tmp_path):
    tensors = RunTensors(RunFolder(folder), tmp_path)
    assert tensors.run.model.version == "v1.0"
    want = load_file(GOLDEN / "weights.safetensors")
    assert tensors.shapes == {name: x.shape for name, x in want.items()}
    assert tensors.dtypes == {name: x.dtype for name, x in want.items()}
    check_same(tensors)
    assert list(tmp_path.iterdir()) == []  # it is stored block by block: no copy is made


def test_a_changed_number_is_noticed(folder, tmp_path):
    """A number in the last block of a stacked kernel is changed in the store."""
    shutil.copytree(folder, tmp_path / "changed")
    item = tmp_path / "changed" / "checkpoints" / "0" / WEIGHTS
    array = open_array(item, "transformer.single_blocks.mlp_in.kernel")
    array[2, 0, 0].write(array[2, 0, 0].read().result() + 1).result()
    tensors = RunTensors(RunFolder(tmp_path / "changed"), tmp_path)
    with pytest.raises(UserError, match="no undamaged checkpoint"):
        tensors.read("img_in.weight")


@pytest.mark.slow
def test_a_run_on_a_mesh_comes_back_from_its_parts(tmp_path):
    """Stored as the shards of eight devices, split along several axes."""
    run = run_of(tmp_path / "run", MeshConfig(fsdp=4, tensor=2))
    names = [name for name, _ in parts_of(run)]
    assert len(names) > 4 * len(set(names))
    tensors = RunTensors(RunFolder(run), tmp_path / "room")
    check_same(tensors)
    (copy,) = (tmp_path / "room").iterdir()
    assert any(copy.iterdir())
    del tensors
    gc.collect()
    assert list((tmp_path / "room").iterdir()) == []  # the copy is gone


@pytest.mark.slow
def test_damage_leads_to_the_checkpoint_before(tmp_path):
    """Damage that is found only while the arrays are copied: the files are valid."""
    run = run_of(tmp_path / "run", MeshConfig(data=1))
    shutil.copytree(run / "checkpoints" / "0", run / "checkpoints" / "1")
    array = open_array(run / "checkpoints" / "1" / "params", "transformer.img_in.bias")
    array[0].write(7).result()
    said = []
    tensors = RunTensors(RunFolder(run, say=said.append), tmp_path)
    check_same(tensors)
    assert "transformer.img_in.bias does not match its fingerprint" in said[0]


@pytest.mark.slow
def test_missing_rights_do_not_lead_to_older_weights(tmp_path):
    run = run_of(tmp_path / "run", MeshConfig(data=1))
    tensors = RunTensors(RunFolder(run), tmp_path)
    everything(run)
    (run / "checkpoints" / "0" / "params" / "manifest.ocdbt").chmod(0)
    with without_rights(), pytest.raises(UserError, match="Permission denied"):
        tensors.read("img_in.bias")


@pytest.mark.slow
def test_no_room_for_the_copy(tmp_path, monkeypatch):
    run = run_of(tmp_path / "run", MeshConfig(data=1))
    (tmp_path / "room").write_text("a file")
    tensors = RunTensors(RunFolder(run), tmp_path / "room")
    with pytest.raises(UserError, match=r"no space for a copy of .*; free some space, or set"):
        tensors.read("img_in.bias")


@pytest.mark.slow
def test_what_one_device_had_is_stored_in_small_blocks(tmp_path, monkeypatch):
    """Readers need no memory for the largest array; blocks are not compressed."""
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", 1 << 14)
    run = run_of(tmp_path / "run", MeshConfig(data=1))
    sizes = [block.nbytes for _, block in parts_of(run)]
    assert 1 << 13 < max(sizes) <= 1 << 14
    array = open_array(
        run / "checkpoints" / "0" / "params", "transformer.single_blocks.mlp_in.kernel"
    )
    assert array.size * 4 > 1 << 16
    assert "zstd" not in str(array.spec().to_json()["metadata"])
    check_same(RunTensors(RunFolder(run), tmp_path))


def test_files_that_go_while_they_are_read(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    tensors = RunTensors(RunFolder(run), tmp_path)
    tensors.read("img_in.weight")
    for file in (run / "checkpoints" / "0").rglob("d/*"):
        file.unlink()
    with pytest.raises(UserError, match=r"cannot be read any more .*; check permissions") as error:
        check_same(tensors)
    assert "\n" not in str(error.value)
