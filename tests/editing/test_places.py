"""Where the models of an edit are: split over a mesh, in the host's memory, in 8 bits."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.editing import memory
from step1x_jax.editing.batches import batches
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.editing.memory import ComponentMemory, check_memory, describe_components
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.parallel.devices import GIB
from step1x_jax.parallel.host_memory import host_shardings, on_device
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.parallel.rules import shardings
from step1x_jax.weights.open import open_weights
from tests.editing.test_editor import AUTOENCODER, SAMPLING, Words, picture, random_model


def mesh_of(**sizes):
    sizes = {"fsdp": 1} | sizes
    return make_mesh(MeshConfig(**sizes), jax.devices()[: np.prod(list(sizes.values()))])


@pytest.fixture(scope="module")
def whole():
    return Editor(random_model(), Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0)), Words(), SAMPLING)


def split(editor, mesh):
    graph, params = nnx.split(editor.model)
    model = nnx.merge(graph, jax.device_put(params, shardings(params, mesh)))
    return dataclasses.replace(editor, model=model, mesh=mesh)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"data": 2}, {"fsdp": 2}, {"sequence": 2}, {"tensor": 2}, {"fsdp": 4, "tensor": 2}]
)
def test_an_edit_over_a_mesh_is_that_of_one_device(whole, sizes):
    """Along each axis; with fsdp=4 the two branches of guidance do not fill the devices."""
    source = picture((64, 64))
    mask = np.zeros((64, 64), bool)
    mask[:, :32] = True
    over = split(whole, mesh_of(**sizes))
    for options in ({}, {"mask": mask, "on_step": lambda step: None}):
        (want,) = whole.edit(source, "fog", **options)
        (got,) = over.edit(source, "fog", **options)
        # float32 sums in another order: a pixel on a rounding edge may tip over
        assert np.abs(np.int32(got) - np.int32(want)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp=2,sequence=2,tensor=2", "data=2,fsdp=2"])
def test_a_loaded_editor_may_be_split(mesh):
    """The language model, too; no device holds more than its part."""
    source = picture((128, 128))
    (want,) = Editor.load("quickstart").edit(source, "Make it night", steps=2)
    editor = Editor.load("quickstart", mesh=mesh)
    (got,) = editor.edit(source, "Make it night", steps=2)
    assert np.abs(np.int32(got) - np.int32(want)).max() <= 1
    kernel = editor.model.transformer.single_blocks.mlp_in.kernel[...]
    parts = editor.mesh.shape["fsdp"] * editor.mesh.shape["tensor"]
    assert kernel.addressable_shards[0].data.size == kernel.size // parts
    assert f"{editor.mesh.size} x cpu ({mesh.replace(',', ', ')})" in repr(editor)


@pytest.mark.slow
def test_models_that_wait_on_the_host_give_the_same_picture():
    source = picture((128, 128))
    (want,) = Editor.load("quickstart").edit(source, "Make it night", steps=1)
    editor = Editor.load("quickstart", offload=True)
    (got,) = editor.edit(source, "Make it night", steps=1)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    before = sum(x.nbytes for x in jax.live_arrays())
    editor.edit(source, "Make it sunset", steps=1)
    after = sum(x.nbytes for x in jax.live_arrays())
    assert after - before < 1 << 20  # of the 7 and 1 MB of model and language model
    assert "models wait in the host's memory" in repr(editor)


def test_copies_on_the_device_are_deleted():
    model = random_model()
    _, params = nnx.split(model)
    host = jax.device_put(params, host_shardings(params))
    mesh = mesh_of(fsdp=2, tensor=2)
    with on_device(host, mesh) as there:
        leaves = jax.tree.leaves(there)
        places = jax.tree.leaves(shardings(host, mesh))
        assert [x.sharding for x in leaves] == places
        for x, want in zip(leaves, jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(x, want)
    assert all(x.is_deleted() for x in leaves)
    assert not any(x.is_deleted() for x in jax.tree.leaves(host))
    with on_device(host, None) as there:  # on a CPU that is the host: still a copy
        leaves = jax.tree.leaves(there)
    assert not any(x.is_deleted() for x in jax.tree.leaves(host))


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["int8", "fp8"])
def test_blocks_in_8_bits(stored):
    """Half the bytes, and nearly the same picture."""
    source = picture((16, 16), 1).resize((128, 128))
    whole = Editor.load("quickstart")
    (want,) = whole.edit(source, "Make it night", steps=4)
    narrow = Editor.load("quickstart", quantize=stored)
    kernel = narrow.model.transformer.double_blocks.img.mlp_in.kernel[...]
    assert kernel.dtype.itemsize == 1
    (got,) = narrow.edit(source, "Make it night", steps=4)
    error = np.mean((np.float32(got) - np.float32(want)) ** 2)
    assert 10 * np.log10(255**2 / error) > 35  # dB; other instructions are 20 and less away
    assert stored in repr(narrow)


def part(name, gib):
    return ComponentMemory(name, "kind", 10**9, gib * GIB, ["bfloat16"])


RELEASE = [part("model", 23.1), part("autoencoder", 0.3), part("language model", 14.4)]


@pytest.mark.parametrize(
    ("available", "options", "needed"),
    [
        (40, {}, None),
        (24, {}, "37.8"),
        (24, {"offload": True}, None),
        (16, {"offload": True}, "23.4"),
        (24, {"encoder_waits": True}, None),
        (23, {"encoder_waits": True}, "23.4"),
        (None, {}, None),
    ],
)
def test_too_little_memory_is_said_before_anything_is_read(monkeypatch, available, options, needed):
    monkeypatch.setattr(memory, "get_memory_bytes", lambda device: available and available * GIB)
    options = {"offload": False, "encoder_waits": False} | options
    if needed is None:
        return check_memory(RELEASE, None, **options)
    with pytest.raises(UserError) as error:
        check_memory(RELEASE, None, **options)
    for words in (f"need {needed} GiB", "model 23.1", f"has {available:.1f}", "--offload"):
        assert words in str(error.value)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_the_part_on_each_device_is_what_is_there(quantize):
    """By the arrays themselves: modulations, for one, are not split over the tensor axis."""
    editor = Editor.load("quickstart", mesh="fsdp=2,tensor=2", quantize=quantize)
    weights = open_weights(QUICKSTART)
    parts = describe_components(
        weights, QUICKSTART / "autoencoder", str(QUICKSTART / "encoder"), quantize, editor.mesh
    )
    there = sum(
        x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(nnx.state(editor.model))
    )
    assert parts[0].bytes_each == there
    assert parts[0].bytes_each > sum(x.nbytes for x in jax.tree.leaves(nnx.state(editor.model))) / 4


def test_batches_are_of_one_kind_and_small_enough():
    large, small = (1024, 1024), (512, 512)
    kinds = [(large, False), (small, False), (large, False), (small, True), *[(small, False)] * 4]
    assert batches(kinds) == [[0], [2], [1, 4, 5, 6], [7], [3]]
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 2, "sequence": 1, "tensor": 1})
    assert batches(kinds, mesh) == [[0, 2], [1, 4, 5, 6, 7], [3]]


def test_a_picture_that_is_larger_than_a_batch_is_one(whole):
    assert batches([((4096, 4096), False)] * 2) == [[0], [1]]
    assert isinstance(whole.edit(picture((64, 64)), "fog")[0], Image.Image)
