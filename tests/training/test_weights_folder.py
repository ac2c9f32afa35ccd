"""Weights alone as a run's folder, and a run's parameters as official tensors."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from step1x_jax.convert.kinds import open_weights
from step1x_jax.convert.official import load_model
from step1x_jax.convert.tensors import Cast
from step1x_jax.errors import UserError
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training import checkpoint, weights_folder
from step1x_jax.training.checkpoint import (
    Checkpoints,
    describe_newest,
    load_weights,
    restore_each,
    restore_params,
)
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.parts import placed
from step1x_jax.training.step import abstract_state, new_state
from step1x_jax.training.stored_arrays import stored_array
from step1x_jax.training.weights_folder import opened_run, write_weights_folder
from tests.golden import VECTORS
from tests.training.tiny import tiny_config

GOLDEN = VECTORS / "dit_v1_0"


def write(path, dtype=None):
    weights = open_weights(GOLDEN)
    tensors = weights.tensors if dtype is None else Cast(weights.tensors, np.dtype(dtype))
    config = TrainConfig()
    config.model = dataclasses.replace(weights.config, param_dtype=str(np.dtype(dtype or "f4")))
    write_weights_folder(path, tensors, config)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("converted") / "weights")


def test_training_starts_from_it_on_a_mesh(folder):
    """What training.start_from gives, against the file read by itself."""
    config = load_model(GOLDEN).config
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    given = load_weights(str(folder), config, placed(abstract_model(config)[1], mesh))
    for x, want in zip(
        jax.tree.leaves(given), jax.tree.leaves(nnx.state(load_model(GOLDEN))), strict=True
    ):
        np.testing.assert_array_equal(x, want)
        assert x.sharding.mesh == mesh


def test_it_comes_back_bit_for_bit(folder, tmp_path):
    with opened_run(folder, tmp_path) as (tensors, config):
        assert config.model.version == "v1.0"
        want = load_file(GOLDEN / "weights.safetensors")
        assert tensors.shapes == {name: x.shape for name, x in want.items()}
        for name, x in want.items():
            np.testing.assert_array_equal(tensors.read(name), x)
            assert tensors.dtypes[name] == x.dtype
    assert list(tmp_path.iterdir()) == []  # the copy is gone


def test_bfloat16_stays_and_starts_float32(tmp_path):
    path = write(tmp_path / "half", jnp.bfloat16)
    step, config, arrays = describe_newest(path)
    assert (step, config.model.param_dtype) == (0, "bfloat16")
    assert {about["dtype"] for about in arrays.values()} == {"bfloat16"}
    abstract = placed(abstract_model(load_model(GOLDEN).config)[1], make_mesh(MeshConfig(data=2)))
    state = restore_params(path, abstract)[0]
    want = load_file(GOLDEN / "weights.safetensors")["img_in.weight"].astype(jnp.bfloat16)
    kernel = state["transformer"]["img_in"]["kernel"][...]
    np.testing.assert_array_equal(kernel, want.T.astype(np.float32))
    assert kernel.dtype == jnp.float32


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
    config = tiny_config()
    config.model = load_model(GOLDEN).config
    config.mesh = MeshConfig(fsdp=4, tensor=2)
    abstract = abstract_state(config, make_mesh(config.mesh))
    state = new_state(config, abstract, load_weights(str(GOLDEN), config.model, abstract.params))
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    checkpoints.save(state, config)
    checkpoints.close()
    blocks = []
    restore_each(tmp_path / "run", lambda name, about, index, block: blocks.append(name))
    assert len(blocks) > 4 * len(set(blocks))
    with opened_run(tmp_path / "run", tmp_path) as (tensors, _):
        for name, x in load_file(GOLDEN / "weights.safetensors").items():
            np.testing.assert_array_equal(tensors.read(name), x)


def test_it_is_no_run_to_go_on_with(folder):
    config = TrainConfig()
    config.model = load_model(GOLDEN).config
    checkpoints = Checkpoints(folder, keep=2)
    with pytest.raises(UserError, match=r"holds weights alone.* training\.start_from"):
        checkpoints.restore(abstract_state(config, make_mesh(MeshConfig())), print)
    checkpoints.close()


def test_no_room_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **more):
        raise ValueError("Error writing x: No space left on device [os_error_code='28']")

    monkeypatch.setattr(weights_folder.ocp.partial, "finalize", full)
    with pytest.raises(UserError, match=r"could not be written \(No space left on device\)"):
        write(tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_two_dtypes_are_refused(tmp_path):
    arrays = load_file(GOLDEN / "weights.safetensors")
    name = "double_blocks.1.img_mlp.0.weight"
    save_file(arrays | {name: arrays[name].astype(jnp.bfloat16)}, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text((GOLDEN / "config.json").read_text())
    weights = open_weights(tmp_path / "x.safetensors")
    config = TrainConfig()
    config.model = weights.config
    with pytest.raises(UserError, match=rf"{name} is bfloat16, in another block float32"):
        write_weights_folder(tmp_path / "out", weights.tensors, config)
    assert not (tmp_path / "out").exists()
