import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from step1x_jax.conditioning import cache
from step1x_jax.conditioning.cache import CachedEncoder
from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.errors import UserError


class Counting:
    """An encoder that notes what it is asked."""

    def __init__(self):
        self.asked: list[str] = []
        self.loads = 0

    def load(self, config):
        self.loads += 1
        self.limit = config.text_length
        return self

    def encode(self, images, instructions):
        self.asked += instructions
        lengths = np.array([1 + len(text) for text in instructions], np.int32)
        states = np.zeros((len(images), self.limit, 4), jnp.bfloat16)
        for row, image, length in zip(states, images, lengths, strict=True):
            row[:length] = np.asarray(image).mean()
        return states, lengths


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    return folder


def picture(value):
    return Image.new("RGB", (8, 8), (value, value, value))


def test_what_was_encoded_before_is_read_and_equal(model, tmp_path):
    inner, config = Counting(), EncoderConfig(path=str(model), text_length=9)
    images, texts = [picture(3), picture(3), picture(7), picture(3)], ["ab", "", "ab", "ab"]
    first, lengths = CachedEncoder(config, inner.load, tmp_path / "c").encode(images, texts)
    assert inner.asked == ["ab", "", "ab"]  # the last one is the first one
    wanted, wanted_lengths = inner.encode(images, texts)
    np.testing.assert_array_equal(first, wanted)
    np.testing.assert_array_equal(lengths, wanted_lengths)
    assert first.dtype == jnp.bfloat16

    again = CachedEncoder(config, inner.load, tmp_path / "c")
    second, _ = again.encode(images, texts)
    np.testing.assert_array_equal(first, second)
    assert inner.loads == 1  # the model is not even loaded
    again.encode([picture(3)], ["new"])
    assert inner.loads == 2
    assert inner.asked[-1] == "new"


@pytest.mark.parametrize(
    "change",
    [
        {"min_pixels": 1},
        {"text_length": 8},
        {"quoting": "words"},
        {"picture_label": True},
        {"dtype": "float32"},
    ],
)
def test_other_settings_are_other_entries(model, tmp_path, change):
    inner, config = Counting(), {"path": str(model), "text_length": 9}
    for settings in (config, config | change, config | change):
        encoder = CachedEncoder(EncoderConfig(**settings), inner.load, tmp_path / "c")
        encoder.encode([picture(1)], ["a"])
    assert inner.asked == ["a", "a"]


def test_another_model_and_another_shape_of_the_same_pixels_are_other_entries(model, tmp_path):
    inner, config = Counting(), EncoderConfig(path=str(model), text_length=9)
    wide, high = Image.new("RGB", (16, 8)), Image.new("RGB", (8, 16))
    CachedEncoder(config, inner.load, tmp_path / "c").encode([wide, high], ["a", "a"])
    assert len(inner.asked) == 2
    (model / "weights").write_bytes(b"2")
    CachedEncoder(config, inner.load, tmp_path / "c").encode([wide], ["a"])
    assert len(inner.asked) == 3


def test_damaged_entries_are_made_again_and_a_place_that_cannot_be_written_is_no_error(
    model, tmp_path, caplog
):
    inner, config = Counting(), EncoderConfig(path=str(model), text_length=9)
    folder = tmp_path / "c"
    CachedEncoder(config, inner.load, folder).encode([picture(1)], ["a"])
    (entry,) = folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    CachedEncoder(config, inner.load, folder).encode([picture(1)], ["a"])
    assert inner.asked == ["a", "a"]
    assert "made again" in caplog.text
    CachedEncoder(config, inner.load, folder).encode([picture(1)], ["a"])
    assert inner.asked == ["a", "a"]

    (tmp_path / "file").touch()
    CachedEncoder(config, inner.load, tmp_path / "file").encode([picture(1)], ["a"])
    assert "Nothing is kept" in caplog.text


def test_an_entry_whose_time_cannot_be_set_is_used(model, tmp_path, monkeypatch):
    inner, config = Counting(), EncoderConfig(path=str(model), text_length=9)
    CachedEncoder(config, inner.load, tmp_path / "c").encode([picture(1)], ["a"])

    def touch(self):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.touch", touch)
    CachedEncoder(config, inner.load, tmp_path / "c").encode([picture(1)], ["a"])
    assert inner.asked == ["a"]


@pytest.mark.parametrize("shape", [(4,), (10, 4), (0, 4), (1, 2, 4)])
def test_an_entry_of_another_form_is_made_again(model, tmp_path, caplog, shape):
    inner, config = Counting(), EncoderConfig(path=str(model), text_length=9)
    encoder = CachedEncoder(config, inner.load, tmp_path / "c")
    first, _ = encoder.encode([picture(1)], ["a"])
    (entry,) = (tmp_path / "c").iterdir()
    save_file({"text": np.zeros(shape, np.float32)}, entry)
    again, _ = encoder.encode([picture(1)], ["a"])
    np.testing.assert_array_equal(again, first)
    assert inner.asked == ["a", "a"]
    assert "holds no embedding; it is made again" in caplog.text


def test_the_entry_that_was_not_used_for_longest_makes_room(model, tmp_path):
    inner, config = Counting(), EncoderConfig(path=str(model), text_length=9)
    folder = tmp_path / "c"
    CachedEncoder(config, inner.load, folder).encode([picture(1)], ["a"])
    (entry,) = folder.iterdir()
    encoder = CachedEncoder(config, inner.load, folder, limit=2 * entry.stat().st_size)
    os.utime(entry, (1, 1))
    encoder.encode([picture(1)], ["b"])
    encoder.encode([picture(1)], ["a"])  # is used now
    (other,) = set(folder.iterdir()) - {entry}
    os.utime(other, (2, 2))
    encoder.encode([picture(1)], ["c"])
    left = set(folder.iterdir())
    assert len(left) == 2
    assert entry in left
    assert other not in left


def test_a_missing_model_is_said_at_once(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        CachedEncoder(EncoderConfig(path=str(tmp_path / "x")), Counting().load, tmp_path)


def test_the_limit_holds_hundreds_of_edits_of_the_release():
    assert cache.LIMIT / (345 * 3584 * 2) > 500
