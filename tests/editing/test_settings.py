"""Sampling defaults and the reading of prompts, of runs and of files: one meaning."""

import json
import shutil

import pytest

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.editing.settings import encoder_of, sampling_of, settings_json
from step1x_jax.errors import UserError
from step1x_jax.models.config import tiny
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.weights.config_json import to_json
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.writer import write_weights_folder
from tests.golden import VECTORS

MODEL = VECTORS / "dit_v1_1"


@pytest.fixture
def run(tmp_path):
    """Makes a run whose config has these sections besides that of the model."""

    def make(**sections):
        weights = open_weights(MODEL)
        write_weights_folder(tmp_path / "run", weights.tensors, weights.config, sections)
        return open_weights(tmp_path / "run")

    return make


@pytest.fixture
def file(tmp_path):
    """Makes a file whose config.json has these entries besides the sizes."""

    def make(**entries):
        shutil.copy(MODEL / "weights.safetensors", tmp_path)
        values = json.loads((MODEL / "config.json").read_text())
        values = {name: value for name, value in values.items() if name in to_json(tiny())}
        (tmp_path / "config.json").write_text(json.dumps(values | entries))
        return open_weights(tmp_path)

    return make


SAMPLING = SamplingConfig(size=512, num_steps=7, guidance=2.5, shift=1.5, truncate=0.5)
READING = {"min_pixels": 3136, "max_pixels": 6272, "quoting": "words", "picture_label": False}
ENTRIES = {
    "size_level": 512, "sample_steps": 7, "cfg_scale": 2.5, "sample_shift": 1.5,
    "timesteps_truncate": 0.5, **READING,
}  # fmt: skip


def test_a_run_and_a_file_say_the_same(run, file):
    as_run = run(
        sampling={"size": 512, "num_steps": 7, "guidance": 2.5, "shift": 1.5, "truncate": 0.5},
        encoder={"path": "somewhere", **READING, "text_length": 9},
    )
    as_file = file(**ENTRIES)
    for weights, path in ((as_run, "somewhere"), (as_file, "")):
        length = weights.config.text_length  # the model's, whatever else is said
        assert sampling_of(weights) == SAMPLING
        assert encoder_of(weights) == EncoderConfig(path, **READING, text_length=length)
        assert settings_json(weights) == ENTRIES


def test_what_is_not_said_is_as_published(run, file):
    for weights in (run(), file()):
        assert sampling_of(weights) == SamplingConfig()
        length = weights.config.text_length
        assert encoder_of(weights) == EncoderConfig("", text_length=length)


def test_what_was_stored_before_there_was_a_choice_had_the_label(run, file):
    assert encoder_of(run(encoder={"quoting": "words"})).picture_label is True
    assert encoder_of(file(quoting="words")).picture_label is True


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"sampling": {"num_steps": 0}}, "num_steps is 0"),
        ({"sampling": {"shift": "x"}}, "shift is 'x'"),
        ({"encoder": {"quoting": "no"}}, "quoting is 'no'"),
        ({"encoder": ["x"]}, "encoder is no section of its config"),
    ],
)
def test_impossible_settings_of_a_run_are_named(run, sections, words):
    with pytest.raises(UserError, match=words):
        (sampling_of if "sampling" in sections else encoder_of)(run(**sections))


def test_impossible_settings_of_a_file_are_named(file):
    with pytest.raises(UserError, match="num_steps is 0"):
        sampling_of(file(sample_steps=0))
    with pytest.raises(UserError, match="quoting is 'no'"):
        encoder_of(file(quoting="no"))
