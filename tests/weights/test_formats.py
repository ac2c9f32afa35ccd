"""Detection of formats, and the inputs that are refused, each in one sentence."""

import json
import os
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.weights.component_paths import locate_components
from step1x_jax.weights.files.fp8 import number_format
from step1x_jax.weights.files.opening import PREFIXES, open_file
from step1x_jax.weights.formats import FORMATS, detect_format
from step1x_jax.weights.info import describe_weights
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.save import write_diffusers
from tests.golden import VECTORS

FILE = "weights.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
NUMBER = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("kohya", ["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"]),
        ("peft", ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"]),
        ("peft", ["transformer_blocks.0.attn.to_q.lora_A.default.weight"]),
        ("lora_diffusers", ["transformer_blocks.0.attn.to_q.lora.down.weight"]),
        ("lora_diffusers", ["transformer_blocks.0.attn.to_q.lora_linear_layer.down.weight"]),
        ("official", ["double_blocks.0.img_attn.qkv.weight", "connector.S.x.weight"]),
        ("diffusers", ["transformer_blocks.0.attn.to_q.weight", "connector.S.x.weight"]),
        ("flux", ["double_blocks.0.img_attn.qkv.weight", "img_in.weight"]),
        ("flux_diffusers", ["transformer_blocks.0.attn.to_q.weight", "x_embedder.weight"]),
        ("autoencoder", ["decoder.up.0.block.0.conv1.weight"]),
        ("autoencoder_diffusers", ["decoder.up_blocks.0.resnets.0.conv1.weight"]),
    ],
)
def test_each_format_is_detected_by_its_names(tmp_path, name, names):
    save_file(dict.fromkeys(names, NUMBER), tmp_path / FILE)
    assert detect_format(open_file(tmp_path / FILE), tmp_path) is FORMATS[name]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_other_programs_put_before_all_names_is_left_out(tmp_path, prefix):
    names = ("double_blocks.0.x", "img_in.bias")
    save_file({f"{prefix}{name}": NUMBER + i for i, name in enumerate(names)}, tmp_path / FILE)
    file = open_file(tmp_path)
    assert file.shapes.keys() == set(names)
    np.testing.assert_array_equal(file.read("img_in.bias", np.array([1])), NUMBER[1:] + 1)
    save_file({f"{prefix}x": NUMBER, "y": NUMBER}, tmp_path / FILE)  # of two programs
    assert open_file(tmp_path).shapes.keys() == {f"{prefix}x", "y"}


def test_how_numbers_are_stored(tmp_path):
    eight = NUMBER.astype(jnp.float8_e4m3fn)
    for stored, tensors in [
        ("plain", {"a.weight": NUMBER}),
        ("fp8", {"a.weight": eight, "a.bias": NUMBER}),
        ("scaled fp8", {"a.weight": eight, "scaled_fp8": eight[0]}),
        ("scaled fp8", {"a.weight": eight, "a.scale_weight": NUMBER[0]}),
        ("scaled fp8", {"a.weight": eight, "a.weight_scale": NUMBER[0]}),
    ]:
        save_file(tensors, tmp_path / FILE)
        assert number_format(open_file(tmp_path / FILE)) == stored


def test_what_is_said_of_a_model():
    text = "\n".join(describe_weights(VECTORS / "dit_v1_0"))
    for words in (
        "Step1X-Edit, official",
        "v1.0: 2 double and 3 single blocks, width 64, 4 heads; connector of 2 blocks, width 96",
        "tensors  129 (129 float32)",
        "numbers  850,337",
        "bytes    3,401,348",
    ):
        assert words in text


def test_what_is_said_of_adapters():
    text = "\n".join(describe_weights(VECTORS / "lora" / "lora_kohya.safetensors"))
    for words in ("LoRA in kohya's format", "modules  29", "rank     4", "alpha    2"):
        assert words in text


def test_the_parts_of_folders(tmp_path):
    for name in ("step1x-edit-v1p1-official.safetensors", "vae.safetensors"):
        (tmp_path / name).write_bytes(b"")
    found = locate_components(tmp_path)
    assert (found.model, found.autoencoder) == (tmp_path, tmp_path / "vae.safetensors")
    assert found.encoder == tmp_path / "Qwen2.5-VL-7B-Instruct"
    found = locate_components(tmp_path / "mine.safetensors")
    assert (found.model.name, found.autoencoder) == (
        "mine.safetensors",
        tmp_path / "vae.safetensors",
    )
    (tmp_path / "transformer").mkdir()
    found = locate_components(tmp_path)
    assert (found.model, found.autoencoder) == (tmp_path / "transformer", tmp_path / "autoencoder")
    assert found.encoder == tmp_path / "encoder"
    for name in ("vae", "text_encoder"):  # as diffusers has it
        (tmp_path / name).mkdir()
    found = locate_components(tmp_path)
    assert (found.autoencoder, found.encoder) == (tmp_path / "vae", tmp_path / "text_encoder")


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.CKPT", "a.bin", "weights.safetensors"])
def test_no_pickle_is_opened(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    words = "is a pickle" if name == FILE else r"is a pickle, .* safetensors\.torch\.save_file"
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match=words):
            open_weights(path)
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def sharded(tmp_path):
    """A small folder of two shards, and its index."""
    a, b = {"a": NUMBER}, {"b": NUMBER}
    save_file(a, tmp_path / "one.safetensors")
    save_file(b, tmp_path / "two.safetensors")
    return tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}


def refused(folder, index, words):
    text = index if isinstance(index, str) else json.dumps({"weight_map": index})
    (folder / INDEX).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        open_file(folder)
    assert str(caught.value).count("\n") == 0


def test_a_good_index_is_read(sharded):
    folder, index = sharded
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    assert open_file(folder).shapes == {"a": (2, 2), "b": (2, 2)}


@pytest.mark.parametrize("place", ["../a.safetensors", "/etc/a.safetensors", "x\\a.safetensors"])
def test_an_index_that_points_outside_its_folder(sharded, place):
    folder, index = sharded
    refused(folder, index | {"a": place}, "is not a .safetensors file in its own folder")


def test_an_index_that_names_a_pickle(sharded):
    folder, index = sharded
    refused(folder, index | {"a": "one.bin"}, "is not a .safetensors file in its own folder")


def test_a_tensor_in_two_shards(sharded):
    folder, index = sharded
    save_file({"a": NUMBER, "b": NUMBER}, folder / "two.safetensors")
    refused(folder, index, r"has a twice, in one\.safetensors and two\.safetensors")


def test_shards_that_do_not_fit_the_index(sharded):
    folder, index = sharded
    refused(folder, {"a": "one.safetensors"} | {"c": "two.safetensors"}, "has b, which")
    refused(folder, index | {"c": "two.safetensors"}, "two.safetensors lacks c")
    refused(folder, index | {"c": "three.safetensors"}, r"lacks three\.safetensors of the 3 files")


@pytest.mark.parametrize(
    "text",
    [
        '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {}}',
        '{"weight_map": ["a"]}',
        "{}",
        "[]",
        "{",
        "[" * 100_000,
    ],
)
def test_an_unreadable_index(sharded, text):
    refused(sharded[0], text, "is not a readable index")


def test_weights_that_are_no_floating_point_numbers(tmp_path):
    arrays = load_file(VECTORS / "dit_v1_1" / FILE)
    save_file(arrays | {"img_in.bias": np.zeros(64, np.int32)}, tmp_path / FILE)
    (tmp_path / "config.json").write_text((VECTORS / "dit_v1_1" / "config.json").read_text())
    with pytest.raises(UserError, match=r"img_in\.bias is int32"):
        open_weights(tmp_path)


def test_adapters_and_unknown_files_are_no_model(tmp_path):
    with pytest.raises(
        UserError,
        match=r"is a LoRA in kohya's format, not a model; give the model, and this as --lora",
    ):
        open_weights(VECTORS / "lora" / "lora_kohya.safetensors")
    save_file({"lm_head": NUMBER}, tmp_path / FILE)
    with pytest.raises(UserError, match=r"has an unknown format: its tensors are lm_head"):
        open_weights(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        open_weights(tmp_path / "absent")


def test_a_truncated_shard_is_noticed_before_anything_is_written(tmp_path):
    write_diffusers(tmp_path / "x", {"transformer": open_weights(VECTORS / "dit_v1_1")})
    file = tmp_path / "x" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        open_weights(tmp_path / "x")
