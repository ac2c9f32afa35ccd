"""Reading (strictly) and writing official files."""

import json
import shutil
import types

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.config import PRESETS
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.weights.formats import FORMATS
from step1x_jax.weights.layouts.official import flatten_params, model_table
from step1x_jax.weights.load import load_autoencoder, load_model
from step1x_jax.weights.open import _make_config, open_weights
from step1x_jax.weights.readers import Cast, InMemory
from step1x_jax.weights.save import save_autoencoder, write_file
from tests.golden import VECTORS
from tests.weights.models import load_as, save_model
from tests.weights.tables import assert_covers_once


@pytest.mark.parametrize("name", ["dit_v1_0", "dit_v1_1"])
def test_a_model_comes_back_byte_for_byte(tmp_path, name):
    save_model(tmp_path / "weights.safetensors", load_model(VECTORS / name))
    written = (tmp_path / "weights.safetensors").read_bytes()
    assert written == (VECTORS / name / "weights.safetensors").read_bytes()
    again = load_model(tmp_path)  # with the config.json that was written beside
    assert again.config == load_model(VECTORS / name).config


def test_an_autoencoder_comes_back_byte_for_byte(tmp_path):
    save_autoencoder(tmp_path / "weights.safetensors", load_autoencoder(VECTORS / "vae"))
    written = (tmp_path / "weights.safetensors").read_bytes()
    assert written == (VECTORS / "vae" / "weights.safetensors").read_bytes()
    assert load_autoencoder(tmp_path).config == load_autoencoder(VECTORS / "vae").config


def test_bfloat16_comes_back_bit_for_bit(tmp_path):
    tensors = load_file(VECTORS / "dit_v1_0" / "weights.safetensors")
    half = {name: x.astype(jax.numpy.bfloat16) for name, x in tensors.items()}
    (tmp_path / "in").mkdir()
    save_file(half, tmp_path / "in" / "weights.safetensors")
    shutil.copy(VECTORS / "dit_v1_0" / "config.json", tmp_path / "in")
    model = load_model(tmp_path / "in")
    assert model.config.param_dtype == "bfloat16"
    save_model(tmp_path / "out.safetensors", model)
    want = (tmp_path / "in" / "weights.safetensors").read_bytes()
    assert (tmp_path / "out.safetensors").read_bytes() == want


@pytest.mark.parametrize("preset", ["step1x_edit_v1_0", "step1x_edit_v1_1", "tiny"])
def test_the_table_covers_every_parameter_once(preset):
    config = PRESETS[preset]()
    assert_covers_once(model_table(config), abstract_model(config)[1])


def altered(tmp_path, change):
    """Writes the v1.0 vectors after `change` has modified their tensors."""
    shutil.copy(VECTORS / "dit_v1_0" / "config.json", tmp_path)
    tensors = load_file(VECTORS / "dit_v1_0" / "weights.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "weights.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("img_in.bias"), "img_in.bias is missing"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "extra is unexpected"),
        (
            lambda t: t.update({"txt_in.bias": np.zeros(7, np.float32)}),
            r"txt_in.bias has shape \[7\], expected \[64\]",
        ),
        (
            lambda t: t.update({"txt_in.bias": np.zeros(64, np.int64)}),
            "txt_in.bias is int64, expected floating-point numbers",
        ),
    ],
)
def test_every_tensor_must_fit(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        load_model(altered(tmp_path, change))


def test_another_version_is_noticed(tmp_path):
    folder = altered(tmp_path, lambda tensors: None)
    values = json.loads((folder / "config.json").read_text()) | {"version": "v1.1"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"connector\.scale_factor is unexpected"):
        load_model(folder)


def test_without_config_json_a_file_must_have_the_releases_sizes(tmp_path):
    shutil.copy(VECTORS / "dit_v1_0" / "weights.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"put a config.json with its sizes beside it"):
        load_model(tmp_path)


def test_an_incomplete_config_json_is_named(tmp_path):
    folder = altered(tmp_path, lambda tensors: None)
    values = json.loads((folder / "config.json").read_text())
    del values["num_heads"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.json lacks num_heads"):
        load_model(folder)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds none of .*step1x-edit-v1p1-official"):
        load_model(tmp_path)


def test_release_sizes_need_no_config_json():
    """Shapes of the release need no config.json; nothing is loaded."""
    shapes = {name: e.shape for name, e in model_table(PRESETS["step1x_edit_v1_0"]()).items()}
    dtypes = dict.fromkeys(shapes, np.dtype(jax.numpy.bfloat16))
    file = types.SimpleNamespace(shapes=shapes, dtypes=dtypes)
    config = _make_config(FORMATS["official"], {}, "", file, None)
    assert (config.version, config.param_dtype) == ("v1.0", "bfloat16")


def test_weights_go_where_the_shardings_say():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    plain = load_model(VECTORS / "dit_v1_0")
    shardings = jax.tree.map(lambda _: place, nnx.state(plain))
    placed = load_as(VECTORS / "dit_v1_0", plain.config, places=shardings)
    for ours, want in zip(
        jax.tree.leaves(nnx.state(placed)), jax.tree.leaves(nnx.state(plain)), strict=True
    ):
        assert ours.sharding == place
        np.testing.assert_array_equal(ours, want)


def test_the_only_file_of_a_folder_may_have_any_name(tmp_path):
    folder = altered(tmp_path, lambda tensors: None)
    (folder / "weights.safetensors").rename(folder / "mine.safetensors")
    assert load_model(folder).config.version == "v1.0"
    shutil.copy(folder / "mine.safetensors", folder / "other.safetensors")
    with pytest.raises(UserError, match="give the weight file itself"):
        load_model(folder)


def test_another_dtype_is_rounded_on_saving(tmp_path):
    save_model(tmp_path / "x.safetensors", load_model(VECTORS / "dit_v1_0"), dtype="bfloat16")
    saved, whole = (
        load_file(tmp_path / "x.safetensors"),
        load_file(VECTORS / "dit_v1_0" / "weights.safetensors"),
    )
    assert saved.keys() == whole.keys()
    for name, x in saved.items():
        assert x.dtype == jax.numpy.bfloat16
        np.testing.assert_array_equal(x, whole[name].astype(jax.numpy.bfloat16))


def test_each_parameter_keeps_its_dtype(tmp_path):
    """In a file of several dtypes; a parameter stacked from several dtypes is float32."""

    def change(tensors):
        for name in ("img_in.weight", "txt_in.bias", "double_blocks.0.img_mlp.0.weight"):
            dtype = np.float16 if name == "txt_in.bias" else jax.numpy.bfloat16
            tensors[name] = tensors[name].astype(dtype)

    state = nnx.state(load_model(altered(tmp_path, change)))
    found = {path: leaf.get_value().dtype.name for path, leaf in flatten_params(state).items()}
    of = {"transformer.img_in.kernel": "bfloat16", "transformer.txt_in.bias": "float16"}
    assert found == {path: of.get(path, "float32") for path in found}
    assert of.keys() < found.keys()


def test_numbers_that_become_too_large_are_not_written(tmp_path):
    """float32's largest number overflows bfloat16."""
    largest = {"x": np.array([1, np.finfo(np.float32).max], np.float32)}
    tensors = Cast(InMemory(largest), np.dtype(jax.numpy.bfloat16))
    with pytest.raises(UserError, match=r"x has numbers .* too large for bfloat16, so .* written"):
        write_file(tmp_path / "a.safetensors", tensors, PRESETS["tiny"]())
    assert list(tmp_path.iterdir()) == []


def test_loras_add_up():
    lora = VECTORS / "lora" / "lora_kohya.safetensors"
    both, sum_of_both, none = (
        jax.tree.leaves(nnx.state(load_model(open_weights(VECTORS / "dit_v1_0", loras=loras))))
        for loras in ([(lora, 0.5), (lora, 2.0)], [(lora, 2.5)], [])
    )
    for one, other in zip(both, sum_of_both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)  # float32 sums
    assert max(float(np.abs(x - y).max()) for x, y in zip(both, none, strict=True)) > 1e-2


def test_the_config_json_of_another_model_is_kept(tmp_path):
    model = load_model(VECTORS / "dit_v1_1")
    save_model(tmp_path / "a.safetensors", model, fields={"sample_steps": 7})
    with pytest.raises(
        UserError, match=r"is that of another model: its sample_steps is 7, here it is None; write"
    ):
        save_model(tmp_path / "b.safetensors", model)
    assert not (tmp_path / "b.safetensors").exists()
    save_model(tmp_path / "a.safetensors", model, fields={"sample_steps": 8})  # its own
    save_model(tmp_path / "c.safetensors", model, fields={"sample_steps": 8})  # the same
    with pytest.raises(UserError, match="is that of another model"):
        save_autoencoder(tmp_path / "d.safetensors", load_autoencoder(VECTORS / "vae"))
