"""Hugging Face folders of Qwen2.5-VL, loaded strictly."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.weights.language_model import load_mllm, open_mllm, read_mllm_config
from step1x_jax.weights.layouts.official import flatten_params
from step1x_jax.weights.layouts.qwen import mllm_table
from tests.golden import VECTORS
from tests.weights.tables import assert_covers_once

FOLDER = VECTORS / "mllm" / "model"
INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def tensors():
    return load_file(FOLDER / "model.safetensors")


def folder_with(path, tensors, config="config.json"):
    """A folder with one weight file."""
    path.mkdir(exist_ok=True)
    shutil.copy(FOLDER / config, path / "config.json")
    save_file(tensors, path / "model.safetensors")
    return path


def sharded(path):
    """The golden weights in three files with an index."""
    path.mkdir(exist_ok=True)
    shutil.copy(FOLDER / "config.json", path)
    parts: list[dict] = [{}, {}, {}]
    weight_map = {}
    for i, (name, x) in enumerate(tensors().items()):
        parts[i % 3][name] = x
        weight_map[name] = SHARDS[i % 3]
    for part, name in zip(parts, SHARDS, strict=True):
        save_file(part, path / name)
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def newer(name):
    """A tensor's name since transformers 4.52."""
    if name.startswith("lm_head"):
        return name
    old, new = ("visual.", "model.visual.")
    if name.startswith(old):
        return new + name.removeprefix(old)
    return "model.language_model." + name.removeprefix("model.")


def assert_same(one, other):
    leaves = flatten_params(nnx.state(other))
    for path, x in flatten_params(nnx.state(one)).items():
        np.testing.assert_array_equal(x[...], leaves[path][...], err_msg=path)


def test_both_generations_and_shards_hold_the_same_model(tmp_path):
    want = load_mllm(FOLDER)
    renamed = {newer(name): x for name, x in tensors().items()}
    later = load_mllm(folder_with(tmp_path / "newer", renamed, "config_nested.json"))
    assert later.config == want.config
    assert_same(later, want)
    assert_same(load_mllm(sharded(tmp_path / "sharded")), want)


def test_precisions(tmp_path):
    assert load_mllm(FOLDER).config.dtype == "float32"
    half = {name: x.astype(jax.numpy.bfloat16) for name, x in tensors().items()}
    folder = folder_with(tmp_path / "half", half)
    model = load_mllm(folder)
    assert (model.config.param_dtype, model.config.dtype) == ("bfloat16", "bfloat16")
    kernel = model.visual.patch_embed.kernel[...]
    want = half["visual.patch_embed.proj.weight"].reshape(48, -1).T
    np.testing.assert_array_equal(kernel, want)
    assert load_mllm(folder, dtype="float32").config.dtype == "float32"


def test_lm_head_is_left_out(tmp_path):
    without = {name: x for name, x in tensors().items() if not name.startswith("lm_head")}
    assert len(without) == len(tensors()) - 1
    assert "lm_head.weight" not in open_mllm(FOLDER).shapes
    assert_same(load_mllm(folder_with(tmp_path / "tied", without)), load_mllm(FOLDER))


@pytest.mark.parametrize("is_newer", [False, True])
@pytest.mark.parametrize("sizes", ["7b", "golden"])
def test_the_table_covers_every_parameter_once(sizes, is_newer):
    config = MLLMConfig() if sizes == "7b" else read_mllm_config(FOLDER)
    assert_covers_once(mllm_table(config, newer=is_newer), abstract_mllm(config)[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.pop("visual.blocks.3.attn.qkv.bias"), r"visual\.blocks\.3.* is missing"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "extra is unexpected"),
        (
            lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)}),
            "model.layers.0.self_attn.o_proj.bias is unexpected",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(7, np.float32)}),
            r"model.norm.weight has shape \[7\], expected \[64\]",
        ),
        (
            lambda t: t.update({"model.visual.patch_embed.proj.weight": np.zeros(3, np.float32)}),
            "is missing.*more",  # half of one generation, half of the other
        ),
    ],
)
def test_every_tensor_must_fit(tmp_path, change, words):
    changed = tensors()
    change(changed)
    with pytest.raises(UserError, match=words) as e:
        load_mllm(folder_with(tmp_path, changed))
    assert str(e.value).startswith(f"{tmp_path} does not fit the model's sizes: ")
    assert str(e.value).endswith("Download it again, config.json included.")


def test_a_missing_shard_is_named(tmp_path):
    (sharded(tmp_path) / SHARDS[1]).unlink()
    with pytest.raises(UserError, match=f"lacks {SHARDS[1]} of the 3 files in its {INDEX}"):
        load_mllm(tmp_path)


def test_a_truncated_shard_is_named(tmp_path):
    data = (sharded(tmp_path) / SHARDS[1]).read_bytes()
    (tmp_path / SHARDS[1]).write_bytes(data[:-5])
    with pytest.raises(UserError, match=rf"{SHARDS[1]} is damaged \(truncated"):
        load_mllm(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    part = load_file(sharded(tmp_path) / SHARDS[0])
    name = min(name for name in part if not name.startswith("lm_head"))
    del part[name]
    save_file(part, tmp_path / SHARDS[0])
    with pytest.raises(UserError, match=f"{SHARDS[0]} lacks {name}, which .* lists"):
        load_mllm(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path):
    part = load_file(sharded(tmp_path) / SHARDS[0])
    save_file(part | {"model.norm.weight": np.zeros(64, np.float32)}, tmp_path / SHARDS[0])
    with pytest.raises(UserError, match=r"model-00001\S* has model\.norm\.weight, which"):
        load_mllm(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"weight_map": [1]}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
    ],
)
def test_a_damaged_index_is_named(tmp_path, text):
    (sharded(tmp_path) / INDEX).write_text(text)
    with pytest.raises(UserError, match=f"{INDEX} is not a readable index"):
        load_mllm(tmp_path)


def rewritten_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_an_index_that_leaves_its_folder(tmp_path):
    folder = sharded(tmp_path / "model")
    (folder / SHARDS[1]).rename(tmp_path / "outside.safetensors")
    outside = "../outside.safetensors"
    rewritten_index(
        folder,
        lambda where: where.update({n: outside for n in where if where[n] == SHARDS[1]}),
    )
    with pytest.raises(UserError, match="file in its own folder"):
        load_mllm(folder)


def test_an_index_that_says_less_than_its_files_hold(tmp_path):
    folder = sharded(tmp_path)
    name = "model.norm.weight"
    rewritten_index(folder, lambda where: where.pop(name))
    with pytest.raises(UserError, match=f"has {name}, which .* does not list"):
        load_mllm(folder)


def test_the_index_of_a_variant(tmp_path):
    (sharded(tmp_path) / INDEX).rename(tmp_path / "model.safetensors.index.fp16.json")
    assert_same(load_mllm(tmp_path), load_mllm(FOLDER))


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        load_mllm(tmp_path)
    shutil.copy(FOLDER / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"holds none of model\.safetensors"):
        load_mllm(tmp_path)
    values = json.loads((FOLDER / "config.json").read_text()) | {"model_type": "qwen2_vl"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="describes a model of type 'qwen2_vl'"):
        load_mllm(tmp_path)


def test_weights_of_other_sizes(tmp_path):
    folder = folder_with(tmp_path, tensors())
    values = json.loads((FOLDER / "config.json").read_text()) | {"intermediate_size": 128}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"has shape \[192, 64\], expected \[128, 64\].*more"):
        load_mllm(folder)


def test_weights_go_where_the_shardings_say():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    want = load_mllm(FOLDER)
    placed = load_mllm(FOLDER, shardings=jax.tree.map(lambda _: place, nnx.state(want)))
    assert {x.sharding for x in jax.tree.leaves(nnx.state(placed))} == {place}
    assert_same(placed, want)


def test_the_quickstart_folder_is_one_of_them():
    folder = VECTORS.parents[1] / "step1x_jax" / "assets" / "quickstart" / "encoder"
    model = load_mllm(folder)
    assert model.config.param_dtype == "bfloat16"
    assert model.config.language.hidden_size == 128
