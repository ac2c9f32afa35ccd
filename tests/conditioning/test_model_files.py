"""Tokenizer and picture settings of a model's folder: read in every form, or refused by name."""

import json

import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.encoder import EncoderConfig, load_encoder
from step1x_jax.conditioning.tokenizer import load_tokenizer
from step1x_jax.errors import UserError
from tests.conditioning.small_qwen import make_folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "qwen")


def encode(folder):
    config = EncoderConfig(str(folder), min_pixels=4 * 28 * 28, text_length=120, dtype="float32")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    states, _ = load_encoder(config).encode([Image.fromarray(pixels)], ["make it night"])
    return np.asarray(states)


def change(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_as_transformers_5_saves_it_gives_the_same(folder):
    want = encode(folder)
    old = folder / "preprocessor_config.json"
    settings = json.loads(old.read_text())
    old.unlink()
    size = {
        "shortest_edge": settings.pop("min_pixels"),
        "longest_edge": settings.pop("max_pixels"),
    }
    newer = {"image_processor": settings | {"size": size}, "processor_class": "Qwen2_5_VLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(newer))
    np.testing.assert_array_equal(encode(folder), want)
    old.write_text(json.dumps(settings | {"size": size}))  # and with the limits in the old file
    np.testing.assert_array_equal(encode(folder), want)


def test_the_librarys_own_saved_processor_is_read(folder):
    """With all the fields that it writes, and of its fast class."""
    from transformers import Qwen2VLImageProcessorPil

    want = encode(folder)
    (folder / "preprocessor_config.json").unlink()
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    np.testing.assert_array_equal(encode(folder), want)
    change(folder, "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessorFast")
    np.testing.assert_array_equal(encode(folder), want)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_rescale", False),
        ("do_normalize", False),
        ("do_resize", False),
        ("do_center_crop", True),
        ("rescale_factor", 1.0),
        ("rescale_factor", "1/255"),
        ("image_mean", [0.5, 0.5, 0.5]),
        ("image_mean", 0.5),
        ("image_std", [0.26862954, 0.26130258]),
        ("image_std", [0, 0, 0]),
        ("patch_size", 16),
        ("patch_size", 14.0),
        ("temporal_patch_size", 1),
        ("merge_size", 10**12),
        ("resample", 0),
        ("do_rescale", "no"),
    ],
)
def test_other_picture_settings_are_refused_by_name(folder, name, value):
    change(folder, "preprocessor_config.json", **{name: value})
    with pytest.raises(UserError, match=f"preprocessor_config.json has {name} "):
        encode(folder)


def test_the_processor_of_another_model_is_refused(folder):
    change(folder, "preprocessor_config.json", image_processor_type="CLIPImageProcessor")
    with pytest.raises(UserError, match="is of a 'CLIPImageProcessor'"):
        encode(folder)


def test_a_newer_file_without_pictures_is_said(folder):
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text('{"processor_class": "X"}')
    with pytest.raises(UserError, match="says nothing of pictures"):
        encode(folder)


def test_truncation_and_padding_left_in_the_file_do_nothing(folder):
    """As in transformers, which writes what its last call had, and never obeys it."""
    want = encode(folder)
    truncation = {"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 512}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 3,
        "pad_type_id": 0, "pad_token": "x",
    }  # fmt: skip
    change(folder, "tokenizer.json", truncation=truncation, padding=padding)
    np.testing.assert_array_equal(encode(folder), want)


def model_of(folder):
    return json.loads((folder / "tokenizer.json").read_text())["model"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "does not keep what it reads"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
         r"the pattern '\(a\+\)\+\$'"),
        ({"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
         "does not keep what it reads"),
        ({"pre_tokenizer": None}, "does not keep what it reads"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_reads_otherwise_is_refused(folder, changes, reason):
    change(folder, "tokenizer.json", **changes)
    with pytest.raises(UserError, match=reason):
        load_tokenizer(folder)


def test_ids_without_embeddings_are_refused(folder):
    model = model_of(folder)
    model["vocab"]["Ġnight"] = 10**6
    change(folder, "tokenizer.json", model=model)
    with pytest.raises(UserError, match=r"has the id 1000000, and the model .* embeddings for"):
        encode(folder)


@pytest.mark.parametrize("values", [{"dropout": 0.5}, {"type": "WordPiece"}])
def test_another_kind_of_model_is_refused(folder, values):
    change(folder, "tokenizer.json", model=model_of(folder) | values)
    with pytest.raises(UserError, match=r"which Qwen2\.5-VL's has not"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", '{"model": 3}', '{"model": {}}', "\xff", "{}"]
)
def test_what_is_no_tokenizer_is_one_sentence(folder, text):
    (folder / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="not a readable tokenizer") as error:
        load_tokenizer(folder)
    assert len(str(error.value)) < 600


def test_older_files_alone_are_named_with_the_way_on(folder):
    (folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("{}")
    with pytest.raises(
        UserError, match=r"make it of vocab\.json and merges\.txt with transformers"
    ):
        load_tokenizer(folder)
