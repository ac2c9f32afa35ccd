"""The quickstart's model as each form of a folder: where load_editor finds all its parts."""

import json
import shutil

import numpy as np
import pytest
from flax import nnx

from step1x_jax.conditioning.encoder import check_encoder, missing_files
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.editing.settings import encoder_of, sampling_of
from step1x_jax.errors import UserError
from step1x_jax.json_files import as_json
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.weights import open as opening
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.load import load_autoencoder, open_autoencoder
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.writer import write_weights_folder
from step1x_jax.weights.save import write_diffusers
from tests.weights.models import published

ENCODER = QUICKSTART / "encoder"


def parts(folder):
    return shutil.copytree(QUICKSTART, folder)


def release(folder, name="step1x-edit-i1258.safetensors"):
    """Its own config.json is the model's: the autoencoder's sizes are the release's."""
    shutil.copytree(QUICKSTART / "transformer", folder)
    (folder / "weights.safetensors").rename(folder / name)
    shutil.copy(QUICKSTART / "autoencoder" / "weights.safetensors", folder / "vae.safetensors")
    shutil.copytree(ENCODER, folder / "Qwen2.5-VL-7B-Instruct")
    return folder


def file_of_release(folder):
    return release(folder, "mine.safetensors") / "mine.safetensors"


def pipeline(folder):
    model = open_weights(QUICKSTART)
    write_diffusers(folder, {"transformer": model, "vae": open_autoencoder(QUICKSTART)})
    shutil.copytree(ENCODER, folder / "text_encoder")
    return folder


def run(folder):
    """A run's config says where its companions are."""
    weights = open_weights(QUICKSTART)
    settings = {
        "sampling": as_json(sampling_of(weights)),
        "encoder": as_json(encoder_of(weights)) | {"path": str(ENCODER)},
        "autoencoder": str(QUICKSTART / "autoencoder"),
    }
    write_weights_folder(folder, weights.tensors, weights.config, settings)
    return folder


@pytest.fixture(autouse=True)
def small_release(monkeypatch):
    """Nothing beside vae.safetensors says its sizes, so the small ones are the release's."""
    sizes = open_autoencoder(QUICKSTART).config
    monkeypatch.setattr(opening, "AutoencoderConfig", lambda: AutoencoderConfig(**vars(sizes)))


def leaves(module):
    return {path: x.get_value() for path, x in nnx.to_flat_state(nnx.state(module))}


SLOW = pipeline, release, file_of_release


@pytest.mark.parametrize(
    "make",
    [parts, run, *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW)],
)
def test_an_editor_is_found_in_every_form(tmp_path, make):
    editor = Editor.load(str(make(tmp_path / "it")))
    model, weights = editor.model, open_weights(QUICKSTART)
    tensors = published(model.config, nnx.state(model))
    if make is pipeline:  # diffusers has no place for a v1.0's scale_factor: test_matrix.py
        folded = {"connector.scale_factor", "connector.global_proj_out.weight"}
    for name in tensors.shapes:
        if make is not pipeline or name not in folded:
            np.testing.assert_array_equal(tensors.read(name), weights.tensors.read(name), name)
    want = leaves(load_autoencoder(QUICKSTART))
    for path, x in leaves(editor.autoencoder).items():
        np.testing.assert_array_equal(x, want[path], str(path))
    assert editor.sampling == sampling_of(weights)
    wanted = encoder_of(weights)
    for field in ("quoting", "picture_label", "text_length", "min_pixels", "max_pixels"):
        assert getattr(editor.encoder.config, field) == getattr(wanted, field)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (
            '{"weight_map": {"a": "../outside.safetensors"}}',
            "not a .safetensors file in its own folder",
        ),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "is not a readable index"),
        (
            '{"weight_map": {"a": "absent.safetensors"}}',
            r"lacks absent\.safetensors of the 1 files",
        ),
    ],
)
def test_an_index_of_the_language_model_is_read_before_the_weights(tmp_path, index, words):
    folder = shutil.copytree(ENCODER, tmp_path / "encoder")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=words) as caught:
        Editor.load("quickstart", text_encoder=str(folder))
    assert str(caught.value).count("\n") == 0


def test_the_index_of_a_variant_is_one_of_the_language_model(tmp_path):
    """As tests/weights/layouts/test_qwen.py reads it, nothing is missing here."""
    folder = shutil.copytree(ENCODER, tmp_path / "encoder")
    assert missing_files(str(folder)) == []
    names = SafetensorsFile(folder / "model.safetensors").shapes
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    assert missing_files(str(folder)) == [str(folder / "model.safetensors")]
    index = {"weight_map": dict.fromkeys(names, "a.safetensors")}
    (folder / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    assert missing_files(str(folder)) == []
    check_encoder(str(folder))
