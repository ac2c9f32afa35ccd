"""Weights alone as a run's folder."""

import dataclasses
import math
import resource
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.step.train_step import abstract_state
from step1x_jax.training.trainable_split import with_shardings
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.readers import Cast, InMemory
from step1x_jax.weights.run import stored_arrays, writer
from step1x_jax.weights.run.fingerprints import CHUNK
from step1x_jax.weights.run.reader import RunFolder
from step1x_jax.weights.run.writer import write_weights_folder
from tests.golden import VECTORS
from tests.weights.loading_worker import wide_config
from tests.weights.models import parameters_as

GOLDEN = VECTORS / "dit_v1_0"


def write(path, dtype=None):
    weights = open_weights(GOLDEN)
    tensors = weights.tensors if dtype is None else Cast(weights.tensors, np.dtype(dtype))
    model = dataclasses.replace(weights.config, param_dtype=str(np.dtype(dtype or "f4")))
    write_weights_folder(path, tensors, model, {"sampling": {"num_steps": 7}})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("converted") / "weights")


def test_training_starts_from_it_on_a_mesh(folder):
    """The parameters of training.start_from against those of the file."""
    config = load_model(GOLDEN).config
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    given = parameters_as(folder, config, with_shardings(abstract_model(config)[1], mesh))
    for x, want in zip(
        jax.tree.leaves(given), jax.tree.leaves(nnx.state(load_model(GOLDEN))), strict=True
    ):
        np.testing.assert_array_equal(x, want)
        assert x.sharding.mesh == mesh


@pytest.mark.slow
def test_bfloat16_stays_and_starts_float32(tmp_path):
    path = write(tmp_path / "half", jnp.bfloat16)
    run = RunFolder(path)
    assert (run.step, run.model.param_dtype) == (0, "bfloat16")
    assert run.config["sampling"] == {"num_steps": 7}
    assert {about["dtype"] for about in run.arrays.values()} == {"bfloat16"}
    abstract = with_shardings(
        abstract_model(load_model(GOLDEN).config)[1], make_mesh(MeshConfig(data=2))
    )
    state = run.restore(abstract)
    want = load_file(GOLDEN / "weights.safetensors")["img_in.weight"].astype(jnp.bfloat16)
    kernel = state["transformer"]["img_in"]["kernel"][...]
    np.testing.assert_array_equal(kernel, want.T.astype(np.float32))
    assert kernel.dtype == jnp.float32


def test_arrays_of_zeros_are_stored_too(tmp_path):
    """Otherwise Orbax takes their blocks for missing."""
    weights = open_weights(GOLDEN)
    tensors = {name: weights.tensors.read(name) for name in weights.tensors.shapes}
    tensors["img_in.bias"] = np.zeros_like(tensors["img_in.bias"])
    write_weights_folder(tmp_path / "weights", InMemory(tensors), weights.config, {})
    state = RunFolder(tmp_path / "weights").restore(abstract_model(weights.config)[1])
    assert not state["transformer"]["img_in"]["bias"][...].any()


def test_it_is_no_run_to_go_on_with(folder):
    config = override(TrainConfig(), {"model": load_model(GOLDEN).config})
    checkpoints = Checkpoints(folder, keep=2)
    with pytest.raises(UserError, match=r"holds only weights.* training\.start_from"):
        checkpoints.restore(abstract_state(config, make_mesh(MeshConfig())), print)
    checkpoints.close()


def test_no_room_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **more):
        raise ValueError("Error writing x: No space left on device [os_error_code='28']")

    monkeypatch.setattr(writer.ocp, "save", full)
    with pytest.raises(UserError, match=r"could not be written \(No space left on device\)"):
        write(tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_cannot_be_written_leaves_nothing(tmp_path):
    """The system fails tensorstore's write, in another thread, while others are written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # what Orbax writes is shorter
    try:
        with pytest.raises(UserError, match=r"could not be written \(File too large\)"):
            write(tmp_path / "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_cannot_be_read_leaves_nothing(tmp_path):
    """The last tensor cannot be read while others are being written."""
    weights = open_weights(GOLDEN)
    last = list(weights.tensors.shapes)[-1]

    class Broken:
        def __init__(self):
            self.shapes, self.dtypes = weights.tensors.shapes, weights.tensors.dtypes
            self.metadata = weights.tensors.metadata

        def read(self, name, rows=None):
            if name == last:
                raise UserError("broken")
            return weights.tensors.read(name)

    with pytest.raises(UserError, match="broken"):
        write_weights_folder(tmp_path / "weights", Broken(), weights.config, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_each_tensor_is_read_once_and_few_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", 1 << 20)
    model = dataclasses.replace(wide_config(), depth_single_blocks=8)
    shapes = {name: entry.shape for name, entry in model_table(model).items()}
    reads = []

    class Ones:
        def __init__(self):
            self.shapes, self.metadata = shapes, {}
            self.dtypes = dict.fromkeys(shapes, np.dtype(jnp.bfloat16))

        def read(self, name, rows=None):
            reads.append(name)
            return np.ones(shapes[name], self.dtypes[name])

    write_weights_folder(tmp_path / "warm", Ones(), model, {})  # imports and compilation
    reads.clear()
    tracemalloc.start()
    try:
        write_weights_folder(tmp_path / "weights", Ones(), model, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(reads) == sorted(shapes)
    sizes = [2 * math.prod(shape) for shape in shapes.values()]
    # One tensor and three copies (RoPE's order, ours) in one thread; a block being hashed, and one
    # being written; buffers for hashing (five arrays of uint32 and two of int64, of CHUNK
    # numbers); and 1 MB of Python's own.
    hashing = (5 * 4 + 2 * 8) * CHUNK
    assert peak < 6 * max(sizes) + hashing + (1 << 20) < sum(sizes) / 3


def test_blocks_of_two_dtypes_are_refused(tmp_path):
    arrays = load_file(GOLDEN / "weights.safetensors")
    name = "double_blocks.1.img_mlp.0.weight"
    save_file(arrays | {name: arrays[name].astype(jnp.bfloat16)}, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text((GOLDEN / "config.json").read_text())
    weights = open_weights(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=rf"{name} is bfloat16, in another block float32"):
        write_weights_folder(tmp_path / "out", weights.tensors, weights.config, {})
    assert not (tmp_path / "out").exists()
