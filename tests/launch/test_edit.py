"""launch.edit and launch.convert as a user runs them."""

import subprocess
import sys

import numpy as np
import pytest
from absl import flags as flags_module
from PIL import Image

from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.errors import UserError
from step1x_jax.weights.load import load_model
from tests.launch.edit_command import Command, alone


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300
    )


def edit(*arguments):
    words = [] if any("--instruction" in a for a in arguments) else ["Make it night"]
    return command("launch.edit", *(f"--instruction={text}" for text in words), *arguments)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).resize((240, 180)).save(path)
    return path


@pytest.mark.slow
def test_a_bad_picture_is_one_sentence(tmp_path):
    broken, output = tmp_path / "broken.jpg", tmp_path / "out.png"
    broken.write_bytes(b"\xff\xd8\xff" + bytes(50))
    result = edit("--model=quickstart", f"--image={broken}", f"--output={output}")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert broken.name in result.stderr
    assert not output.exists()


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


@pytest.mark.slow
def test_convert_writes_a_model_that_loads(tmp_path):
    output = tmp_path / "out" / "weights.safetensors"
    result = command("launch.convert", f"--input={QUICKSTART}", f"--output={output}")
    assert result.returncode == 0, result.stderr
    shipped = QUICKSTART / "transformer" / "weights.safetensors"
    assert output.read_bytes() == shipped.read_bytes()
    assert load_model(output).config == load_model(shipped).config


@pytest.fixture(scope="module")
def loading_nothing():
    with alone() as module:
        yield Command(module)


def refusal(command, *flags):
    """Why these flags are refused; before anything is loaded, all that is wrong has to be."""
    loaded = len(command.loaded)
    with pytest.raises((UserError, flags_module.Error)) as caught:
        command(*flags)
    assert len(command.loaded) == loaded
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def test_what_is_wrong_is_refused_before_anything_is_loaded(
    tmp_path, photo, loading_nothing, monkeypatch
):
    monkeypatch.chdir(photo.parent)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link.jpg").symlink_to(photo)
    (tmp_path / "hard.jpg").hardlink_to(photo)
    Image.new("L", (17_000, 100)).save(tmp_path / "wide.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    np.save(tmp_path / "noise.npy", np.full((1, 16, 16, 16), np.nan, np.float32))
    before = photo.read_bytes()
    cases = {
        f"--output={photo}": "is the picture to edit, which would be lost",
        f"--output={tmp_path}/link.jpg": "is the picture to edit",
        f"--output={tmp_path}/hard.jpg": "is the picture to edit",
        f"--output=./{photo.name}": "is the picture to edit",
        f"--output={tmp_path}/out.gif": "should end in .png",
        f"--output={tmp_path}/no ending": "should end in .png",
        f"--output={tmp_path}/file/out.png": "could not be written",
        "--instruction=": "--instruction is empty",
        "--instruction=  \t": "--instruction is empty",
        f"--noise={tmp_path}/noise.npy": "not finite",
        f"--noise={tmp_path}": "is a folder",
        f"--model={tmp_path}": "is no model",
        "--size=0": "--size=0",
        "--size=1000000": "--size=1000000",
        "--steps=1000000000": "--steps=1000000000",
        "--seed=-1": "--seed=-1",
        f"--seed={2**64}": "--seed=",
        "--guidance_scale=1e30": "--guidance_scale=1e30",
        "--truncate=-1": "--truncate=-1",
        "--num_images=0": "--num_images=0",
        "--quantize=int4": "--quantize=int4",
        "--speed=quick": "--speed=quick",
    }
    for flag, reason in cases.items():
        words = [] if "--instruction" in flag else ["--instruction=night"]
        flags = [f"--image={photo}", f"--output={tmp_path}/out.png", flag, *words]
        assert reason in refusal(loading_nothing, *flags), flag
    night = "--instruction=night"
    wide = (f"--image={tmp_path}/wide.png", f"--output={tmp_path}/out.webp", night)
    reason = "WEBP holds no picture of 17000x100 pixels; write a .png"
    assert reason in refusal(loading_nothing, *wide)
    for name in ("dot.png", "absent.png"):
        flags = (f"--image={tmp_path}/{name}", f"--output={tmp_path}/out.png", night)
        assert name in refusal(loading_nothing, *flags)
    for flags, name in (((night,), "image"), ((f"--image={photo}",), "instruction")):
        assert f"--{name} must have a value" in refusal(loading_nothing, *flags)
    assert photo.read_bytes() == before
    assert not (tmp_path / "out.png").exists()


def test_home_folders_are_found(tmp_path, photo, loading_nothing, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jpg").write_bytes(photo.read_bytes())
    assert loading_nothing("--image=~/p.jpg", "--output=~/new/x.png", "--instruction=night") == 0
    assert (tmp_path / "new" / "x.png").exists()
    assert not (tmp_path / "~").exists()
    assert b'"~/p.jpg"' in (tmp_path / "new" / "x.png").read_bytes()


@pytest.mark.slow
def test_the_command_tells_what_it_did(tmp_path, photo):
    """The same edit from PIL in a notebook has the same pixels; --like, to the bit."""
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = tmp_path / "turned.png"
    Image.open(photo).save(turned, exif=exif)
    arguments = ("--model=quickstart", f"--image={turned}", "--steps=1")
    jpeg = edit(*arguments, f"--output={tmp_path}/x.jpg", "--instruction=Helmet")
    assert jpeg.returncode == 0, jpeg.stderr
    assert "'Helmet' is none of them: the result may be anything" in jpeg.stderr
    with Image.open(tmp_path / "x.jpg") as image:  # quality 95: the lowest frequency by 2; 4:4:4
        assert image.quantization[0][0] == 2
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3
    output, again = tmp_path / "out.png", tmp_path / "again.png"
    result = edit(*arguments, f"--output={output}")
    assert result.returncode == 0, result.stderr
    assert "out.png: 180 x 240, 1 steps, seed 0" in result.stdout
    assert "may be anything" not in result.stderr
    assert "autoencoder: autoencoder, official" in result.stderr
    (notebook,) = Editor.load("quickstart").edit(Image.open(turned), "Make it night", steps=1)
    difference = np.int32(np.asarray(notebook)) - np.asarray(Image.open(output))
    assert np.abs(difference).max() <= 1  # one program and a loop: rounding
    result = command("launch.edit", f"--like={output}", f"--output={again}")
    assert result.returncode == 0, result.stderr
    assert f"as {output}: 'Make it night', 1 steps" in result.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(output)))
