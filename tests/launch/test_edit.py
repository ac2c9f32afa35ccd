"""launch.edit and launch.convert as a user runs them."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from step1x_jax.convert.official import load_model
from step1x_jax.editing.loading import QUICKSTART


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300
    )


def edit(*arguments):
    return command("launch.edit", "--instruction=Make it look like night", *arguments)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).resize((240, 180)).save(path)
    return path


def test_a_bad_picture_is_one_sentence(tmp_path):
    broken, dot = tmp_path / "broken.jpg", tmp_path / "dot.png"
    broken.write_bytes(b"\xff\xd8\xff" + bytes(50))
    Image.new("RGB", (1, 1)).save(dot)
    output = tmp_path / "out.png"
    for path in (broken, dot, tmp_path / "absent.png"):
        result = edit("--model=quickstart", f"--image={path}", f"--output={output}")
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert path.name in result.stderr
    assert not output.exists()


def test_a_wrong_model_is_one_sentence(tmp_path, photo):
    result = edit(f"--model={tmp_path}", f"--image={photo}", f"--output={tmp_path}/out.png")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "is no model" in result.stderr


def test_an_unknown_kind_of_output_is_refused_before_work(tmp_path, photo):
    result = edit("--model=quickstart", f"--image={photo}", f"--output={tmp_path}/out.gif2")
    assert result.returncode == 1
    assert "should end in .png" in result.stderr


@pytest.mark.torch
def test_the_shipped_model_edits_a_picture(tmp_path, photo):
    output = tmp_path / "new folder" / "night.png"
    arguments = ("--model=quickstart", f"--image={photo}", f"--output={output}")
    result = edit(*arguments, "--steps=4")
    assert result.returncode == 0, result.stderr
    night = np.asarray(Image.open(output).convert("L"), np.float32)
    assert night.shape == (180, 240)
    # "night" is trained to darken: a picture that comes out as bright as it was is no edit
    assert night.mean() < 0.7 * np.asarray(Image.open(photo).convert("L"), np.float32).mean()


def test_convert_writes_a_model_that_loads(tmp_path):
    output = tmp_path / "out" / "weights.safetensors"
    result = command("launch.convert", f"--input={QUICKSTART}", f"--output={output}")
    assert result.returncode == 0, result.stderr
    shipped = QUICKSTART / "transformer" / "weights.safetensors"
    assert output.read_bytes() == shipped.read_bytes()
    assert load_model(output).config == load_model(shipped).config


def test_a_place_that_cannot_be_written_is_said_before_work(tmp_path, photo):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "out.png"
    result = edit("--model=quickstart", f"--image={photo}", f"--output={output}")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert f"error: {output} could not be written" in result.stderr
    assert "choose another place" in result.stderr
