"""launch.convert as a user runs it. What it makes of weights is tested in tests/convert."""

import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file

from launch.convert import main
from step1x_jax.convert.keys import model_table
from step1x_jax.convert.lora import LoraFile, merged
from step1x_jax.convert.official import load_model
from step1x_jax.errors import UserError
from tests.golden import VECTORS

FILE = "weights.safetensors"
LORA = VECTORS / "lora" / "lora_kohya.safetensors"


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.convert", *arguments],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_from_official_to_orbax_to_a_pipeline_and_back(tmp_path):
    """Every form in one chain; the numbers at its end are those of its beginning."""
    steps = [
        (VECTORS / "dit_v1_1", "run", "--to=orbax"),
        (tmp_path / "run", "pipeline", "--to=diffusers", f"--autoencoder={VECTORS / 'vae'}"),
        (tmp_path / "pipeline", "parts"),
    ]
    for source, name, *more in steps:
        result = convert(f"--input={source}", f"--output={tmp_path / name}", *more)
        assert result.returncode == 0, result.stderr
        assert f"{tmp_path / name}: transformer" in result.stdout
    assert "Add Qwen2.5-VL as" not in result.stdout
    for part, name in (("transformer", "dit_v1_1"), ("autoencoder", "vae")):
        want = (VECTORS / name / FILE).read_bytes()
        assert (tmp_path / "parts" / part / FILE).read_bytes() == want
    # no temporary file is left
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "pipeline", "run"]


def test_several_loras_are_merged_each_with_its_scale(tmp_path):
    out = tmp_path / "new folder" / "merged.safetensors"
    result = convert(
        f"--input={VECTORS / 'dit_v1_0'}", f"--output={out}", "--dtype=bfloat16",
        f"--lora={LORA}", f"--lora={LORA}", "--lora_scale=0.5", "--lora_scale=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    base = load_file(VECTORS / "dit_v1_0" / FILE)
    lora = LoraFile(LORA, model_table(load_model(VECTORS / "dit_v1_0").config))
    want = merged(lambda name, rows=None: base[name], [(lora, 2.5)])
    found = load_file(out)
    assert found.keys() == base.keys()
    name = "single_blocks.0.linear1.weight"
    assert np.abs(want(name) - base[name]).max() > 0.01
    for name, x in found.items():  # rounded to 8 bits of mantissa
        np.testing.assert_allclose(x.astype(np.float32), want(name), rtol=2**-8, atol=1e-6)


def test_info_converts_nothing(tmp_path):
    result = convert(f"--input={VECTORS / 'dit_v1_0'}", "--info")
    assert result.returncode == 0, result.stderr
    assert "Step1X-Edit, official" in result.stdout
    assert "numbers  850,337" in result.stdout


@pytest.fixture
def own_flags():
    """The command's flags as they were, in this process."""
    with flagsaver.flagsaver():
        yield
        flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input={dit}"], "--output is missing"),
        (["--input={dit}", "--output={there}"], "exists; choose another name, or remove it"),
        (["--input={dit}", "--output={new}", "--to=diffusers"], "writes a folder"),
        (["--input={tmp}/x.ckpt", "--output={new}"], "is a pickle"),
        (["--input={vae}", "--output={tmp}/run", "--to=orbax"], "is an autoencoder"),
        (["--input={dit}", "--output={new}", "--autoencoder={dit}"], "is no autoencoder"),
        (["--input={lora}", "--output={new}"], "is a LoRA in kohya's form, not a model"),
        (["--input={dit}", "--output={new}", "--lora={lora}", "--lora_scale=1", "--lora_scale=2"],
         "there are 1 --lora and 2 --lora_scale"),
        (["--input={cut}", "--output={tmp}/folder/x.safetensors"], "truncated"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_nothing_is_written(tmp_path, own_flags, arguments, words):
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x04.")
    there, cut = tmp_path / "there.safetensors", tmp_path / "cut.safetensors"
    save_file({"a": np.zeros(3)}, there)
    cut.write_bytes((VECTORS / "dit_v1_0" / FILE).read_bytes()[:-1])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    places = {
        "dit": VECTORS / "dit_v1_0", "vae": VECTORS / "vae", "lora": LORA, "tmp": tmp_path,
        "there": there, "cut": cut, "new": tmp_path / "new.safetensors",
    }  # fmt: skip
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["convert", *(argument.format(**places) for argument in arguments)])
    with pytest.raises(UserError, match=words) as caught:
        main()
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_mistake_is_one_line_and_exit_code_1(tmp_path):
    result = convert(f"--input={tmp_path / 'absent'}", f"--output={tmp_path / 'x.safetensors'}")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"error: {tmp_path / 'absent'} does not exist")
