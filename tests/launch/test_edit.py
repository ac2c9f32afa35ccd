"""launch.edit and launch.convert as a user runs them."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.weights.load import load_model


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300
    )


def edit(*arguments):
    words = [] if any("--instruction" in a for a in arguments) else ["Make it look like night"]
    return command("launch.edit", *(f"--instruction={text}" for text in words), *arguments)


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


# In a process of its own, for commands share the names of flags; with nothing loaded: before that,
# all that is wrong has to be refused.
EACH = """
import json, sys
from absl import flags
from launch import edit

def load(*arguments, **options):
    raise AssertionError("loaded")

edit.load_editor = load
for case in json.loads(sys.argv[1]):
    try:
        flags.FLAGS(["edit", "--model=quickstart", "--instruction=night", *case])
        edit.main()
    except Exception as e:
        print(json.dumps(f"{type(e).__name__}: {e}"))
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
"""


def outcomes(*cases, cwd=None, **environment):
    """What becomes of launch.edit with each of some lists of flags."""
    root = str(pathlib.Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(cases)],
        capture_output=True, text=True, timeout=300, cwd=cwd,
        env=os.environ | {"PYTHONPATH": root} | environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_is_wrong_is_refused_before_anything_is_loaded(tmp_path, photo):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.jpg").symlink_to(photo)
    Image.new("L", (17_000, 100)).save(tmp_path / "wide.png")
    np.save(tmp_path / "noise.npy", np.full((1, 16, 16, 16), np.nan, np.float32))
    before = photo.read_bytes()
    cases = {
        f"--output={tmp_path}": "is a folder; give the file's name",
        f"--output={tmp_path}/folder.png": "is a folder",
        f"--output={photo}": "is the picture to edit, which would be lost",
        f"--output={tmp_path}/link.jpg": "is the picture to edit",
        f"--output=./{photo.name}": "is the picture to edit",
        f"--output={tmp_path}/out.gif": "should end in .png",
        f"--output={tmp_path}/no ending": "should end in .png",
        "--instruction=": "--instruction is empty",
        "--instruction=  \t": "--instruction is empty",
        f"--noise={tmp_path}/noise.npy": "not finite",
        f"--noise={tmp_path}": "is a folder",
        "--size=0": "--size=0",
        "--size=1000000": "--size=1000000",
        "--steps=1000000000": "--steps=1000000000",
        "--seed=-1": "--seed=-1",
        f"--seed={2**64}": "--seed=",
        "--guidance=1e30": "--guidance=1e30",
        f"--seed={2**64 - 1}": "loaded",
    }
    flags = [[f"--image={photo}", f"--output={tmp_path}/out.png", flag] for flag in cases]
    flags.append([f"--image={tmp_path}/wide.png", f"--output={tmp_path}/out.webp"])
    reasons = [*cases.values(), "WEBP holds no picture of 17000x100 pixels; write a .png"]
    for flag, got, reason in zip(flags, outcomes(*flags, cwd=photo.parent), reasons, strict=True):
        assert reason in got, flag
    assert photo.read_bytes() == before


def test_home_folders_are_found(tmp_path, photo):
    (tmp_path / "p.jpg").write_bytes(photo.read_bytes())
    flags = ["--image=~/p.jpg", "--output=~/new/x.png"]
    assert outcomes(flags, cwd=tmp_path, HOME=str(tmp_path)) == ["AssertionError: loaded"]
    assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "~").exists()


def test_the_command_tells_what_it_did(tmp_path, photo):
    """Overwriting is said; the same edit from PIL in a notebook has the same pixels."""
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = tmp_path / "turned.png"
    Image.open(photo).save(turned, exif=exif)
    output = tmp_path / "out.png"
    arguments = ("--model=quickstart", f"--image={turned}", f"--output={output}", "--steps=1")
    jpeg = edit(*arguments[:2], f"--output={tmp_path}/x.jpg", "--steps=1", "--instruction=Helmet")
    assert jpeg.returncode == 0, jpeg.stderr
    assert "not 'helmet': the result may be anything" in jpeg.stderr
    with Image.open(tmp_path / "x.jpg") as image:  # quality 95: the lowest frequency by 2; 4:4:4
        assert image.quantization[0][0] == 2
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3
    for word in ("out.png: 180 x 240", "out.png (in place of the file that was there): 180 x 240"):
        result = edit(*arguments)
        assert result.returncode == 0, result.stderr
        assert word in result.stdout
        assert "note:" not in result.stderr
    (notebook,) = Editor.load("quickstart", steps=1).edit(
        Image.open(turned), "Make it look like night"
    )
    difference = np.int32(np.asarray(notebook)) - np.asarray(Image.open(output))
    assert np.abs(difference).max() <= 1  # one program and a loop: rounding
