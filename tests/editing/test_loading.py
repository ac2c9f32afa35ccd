"""What a name or a folder means, and what is said of those that mean nothing."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from step1x_jax.editing import loading
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import QUICKSTART, find_parts
from step1x_jax.editing.settings import encoder_of
from step1x_jax.errors import UserError
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.writer import write_weights_folder


@pytest.fixture
def nothing_is_read(monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("read")

    for name in ("load_model", "load_autoencoder", "load_encoder"):
        monkeypatch.setattr(loading, name, load)


@pytest.fixture
def parts(tmp_path):
    return shutil.copytree(QUICKSTART, tmp_path / "parts")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("quickstrat", "quickstrat does not exist; did you mean quickstart"),
        ("stepfun-ai/Step1X-Edit", "hf download stepfun-ai/Step1X-Edit"),
        ("no/such/folder", r"no/such/folder does not exist; give quickstart, a run directory"),
        ("weights.safetensors", r"weights\.safetensors does not exist"),
        ("a\0b", "null character"),
        ("http://example.com/model", "is an address"),
        ("file:///etc", "is an address"),
        ("", "no model is given"),
    ],
)
def test_what_does_not_exist_is_said_so(nothing_is_read, monkeypatch, tmp_path, path, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        Editor.load(path)


def test_what_exists_and_is_no_model_is_said_so(nothing_is_read, tmp_path):
    with pytest.raises(UserError, match=r"is empty, and is no model: give .* or quickstart"):
        Editor.load(str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"is no model: give a run directory"):
        Editor.load(str(tmp_path))
    with pytest.raises(UserError, match=r"x\.gguf is a GGUF file, .*GGUF cannot be read"):
        Editor.load(str(tmp_path / "x.gguf"))
    step = tmp_path / "run" / "checkpoints" / "100"
    step.mkdir(parents=True)
    for inside in (step, step.parent):
        with pytest.raises(UserError, match=f"give the run's folder, {tmp_path / 'run'}"):
            Editor.load(str(inside))


def test_all_that_is_missing_is_named_at_once_before_anything_is_read(nothing_is_read, parts):
    shutil.rmtree(parts / "autoencoder")
    shutil.rmtree(parts / "encoder")
    with pytest.raises(UserError) as error:
        Editor.load(str(parts))
    for part in (f"{parts}/autoencoder", "--vae", f"{parts}/encoder", "--text_encoder"):
        assert part in str(error.value)

    (parts / "encoder").mkdir()
    shutil.copy(QUICKSTART / "encoder" / "config.json", parts / "encoder")
    with pytest.raises(UserError) as error:
        Editor.load(str(parts), vae=str(QUICKSTART / "autoencoder"))
    names = ("preprocessor_config.json", "tokenizer.json", "model.safetensors")
    for part in (*names, "--text_encoder"):
        assert part in str(error.value)
    assert "--vae" not in str(error.value)


def test_a_wrong_small_file_of_the_encoder_is_found_before_the_model_is_read(
    nothing_is_read, parts
):
    path = parts / "encoder" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_rescale": False}))
    with pytest.raises(UserError, match="has do_rescale False"):
        Editor.load(str(parts))


def test_a_run_that_says_nothing_of_its_companions_names_the_flags(nothing_is_read, tmp_path):
    weights = open_weights(QUICKSTART)
    write_weights_folder(tmp_path / "run", weights.tensors, weights.config, {"autoencoder": ""})
    with pytest.raises(UserError) as error:
        Editor.load(str(tmp_path / "run"))
    assert "--vae" in str(error.value)
    assert "--text_encoder" in str(error.value)


def test_a_home_folder_is_found(monkeypatch, tmp_path, parts):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_parts("~/parts").model == parts / "transformer"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"quantize": "int4"}, "quantize is 'int4'; use one of int8, fp8"),
        ({"mesh": "fsdp=3"}, None),
        ({"mesh": "fsdp=16"}, "do not fit 8 devices"),
        ({"mesh": "chips=2"}, "'chips=2' is not an axis and its size"),
    ],
)
def test_settings_are_checked_before_anything_is_read(nothing_is_read, settings, reason):
    error = AssertionError if reason is None else UserError
    with pytest.raises(error, match=reason):
        Editor.load("quickstart", **settings)


def test_an_editor_says_what_was_loaded():
    said = []
    editor = Editor.load("quickstart", say=said.append)
    lines = repr(editor).splitlines()
    assert lines[0] == "Editor: v1.0, size 128, 10 steps, guidance 1.2"
    assert lines[1:4] == said
    count = sum(x.size for x in jax.tree.leaves(nnx.state(editor.model)))
    assert f"model: Step1X-Edit, official, v1.0, of {QUICKSTART}/transformer" in lines[1]
    assert f"{count / 1e6:.2f} million parameters, bfloat16, 0.01 GiB" in lines[1]
    assert "language model: Qwen2.5-VL, of" in lines[3]
    assert lines[4] == "  on one cpu, arithmetic in float32"


def test_the_shipped_model_reads_the_label_it_was_trained_with():
    assert find_parts("quickstart").encoder == QUICKSTART / "encoder"
    assert Editor.load("quickstart").encoder.config.picture_label is False


@pytest.mark.parametrize(
    ("stored", "label"),
    [
        ({}, False),
        ({"quoting": "words"}, True),
        ({"quoting": "words", "picture_label": False}, False),
    ],
)
def test_models_stored_before_the_setting_have_the_label(parts, stored, label):
    """launch.convert has always written `quoting` of a run; sizes by hand say nothing."""
    path = parts / "transformer" / "config.json"
    values = json.loads(path.read_text())
    for name in ("quoting", "picture_label"):
        del values[name]
    path.write_text(json.dumps(values | stored))
    assert encoder_of(open_weights(parts)).picture_label is label


def test_a_size_that_leaves_no_room_is_said_in_words_of_the_editor():
    editor = Editor.load("quickstart")
    with pytest.raises(UserError, match=r"at size 256 the picture alone takes .* of the 64 tokens"):
        editor.edit(np.zeros((64, 64, 3), np.uint8), "make it night", size=256, steps=1)


@pytest.mark.parametrize("lora", [3, ("a", "b"), ("a", 1, 2), [b"a"], None])
def test_loras_are_paths_or_pairs(nothing_is_read, lora):
    with pytest.raises(UserError, match="give paths, or pairs of a path and a number"):
        Editor.load("quickstart", loras=[lora])


def test_a_lora_by_its_path_alone_has_strength_1(nothing_is_read, monkeypatch):
    given = []
    monkeypatch.setattr(loading, "open_weights", lambda *_, **options: given.append(options) or 1)
    with pytest.raises(AttributeError):  # there are no weights
        Editor.load("quickstart", loras=["a.safetensors", ("b.safetensors", 0.5)])
    assert given[0]["loras"] == [("a.safetensors", 1.0), ("b.safetensors", 0.5)]
    with pytest.raises(AttributeError):
        Editor.load("quickstart", loras="a.safetensors")
    assert given[1]["loras"] == [("a.safetensors", 1.0)]
