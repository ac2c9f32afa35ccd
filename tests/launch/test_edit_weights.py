"""launch.edit with LoRAs, runs, their averages and bases: against weights that launch.convert made.

All edits are of one process, and of the quickstart's model: small, but with everything it needs.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx
from PIL import Image

from step1x_jax.editing.loading import QUICKSTART, load_editor
from step1x_jax.editing.settings import encoder_of, sampling_of
from step1x_jax.errors import UserError
from step1x_jax.models.config import LoraConfig
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint import Checkpoints
from step1x_jax.training.step import abstract_state, new_state
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import Adapters, abstract_adapters
from step1x_jax.weights.lora.writers import save_kohya
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.fingerprints import describe, name_arrays
from step1x_jax.weights.run.writer import write_adapters_folder
from tests.launch.test_convert import main_with
from tests.training.tiny import tiny_config
from tests.weights import forms
from tests.weights.models import published

LORA = LoraConfig(rank=2, alpha=4.0)
COMPANIONS = (f"--autoencoder={QUICKSTART}", f"--qwen={QUICKSTART / 'encoder'}")


class Made(NamedTuple):
    """What is edited with."""

    folder: pathlib.Path

    def __getattr__(self, name):
        return self.folder / {"one": "one.safetensors", "two": "two.safetensors"}.get(name, name)


def adapters(seed):
    """Random ones that change a picture and do not spoil it."""
    rng = np.random.default_rng(seed)
    abstract = abstract_adapters(load_model(QUICKSTART).config, LORA)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 9, x.dtype), abstract)


def save_run(folder, lora, start_from):
    """A run with the settings of the quickstart, which names its autoencoder and its encoder."""
    weights = open_weights(QUICKSTART)
    config = tiny_config()
    config.model, config.lora = load_model(QUICKSTART).config, lora
    config.sampling, config.encoder = sampling_of(weights), encoder_of(weights)
    config.encoder.path = str(QUICKSTART / "encoder")
    config.autoencoder = str(QUICKSTART / "autoencoder")
    config.training.start_from = str(start_from)
    config.mesh = MeshConfig(fsdp=1)
    abstract = abstract_state(config, make_mesh(config.mesh, jax.devices()[:1]))
    base = nnx.state(load_model(QUICKSTART))
    state = new_state(config, abstract, adapters(0) if lora.rank else base)
    state = dataclasses.replace(state, ema=jax.tree.map(lambda x: 0.9 * x, state.ema))
    saved = describe(name_arrays(nnx.state(load_model(QUICKSTART)))) if lora.rank else None
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state, config, saved)
    checkpoints.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    model = load_model(QUICKSTART).config
    for i, name in enumerate(("one", "two")):
        save_kohya(folder / f"{name}.safetensors", Adapters(adapters(i), model, LORA))
    save_run(folder / "run", LoraConfig(), "")
    save_run(folder / "lora", LORA, folder / "gone")
    write_adapters_folder(folder / "alone", adapters(0), model, LORA)
    shutil.copytree(QUICKSTART, folder / "moved")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((96, 72)).save(folder / "photo.png")
    with flagsaver.flagsaver():
        for name, *flags in (
            ("by_loras", "--input=quickstart", *two_loras(folder)),
            ("by_ema", f"--input={folder / 'run'}", "--ema"),
            ("by_base", f"--input={folder / 'lora'}", f"--base={folder / 'moved'}"),
        ):
            main_with(f"--output={folder / name}", *flags)
    return Made(folder)


def two_loras(folder):
    files = [f"--lora={folder / name}.safetensors" for name in ("one", "two")]
    return [*files, "--lora_scale=0.5", "--lora_scale=-2"]


# What is asked of launch.edit.
def edits(made):
    of_quickstart = "--model=quickstart"
    return {
        "plain": [of_quickstart],
        "loras": [of_quickstart, *two_loras(made.folder)],
        "by loras": [f"--model={made.by_loras}", *COMPANIONS],
        "run": [f"--model={made.run}"],
        "ema": [f"--model={made.run}", "--ema"],
        "by ema": [f"--model={made.by_ema}", *COMPANIONS],
        "base": [f"--model={made.lora}", f"--base={made.moved}"],
        "by base": [f"--model={made.by_base}", *COMPANIONS],
        "adapters": [of_quickstart, f"--lora={made.lora}"],
    }


EACH = """
import json, sys, numpy
from absl import flags
from PIL import Image
from launch import edit
from step1x_jax.editing.loading import load_editor

cases = json.loads(sys.argv[1])
for name, case in cases.items():
    output = f"{name}.png"
    flags.FLAGS(["edit", "--instruction=night", "--image=photo.png", f"--output={output}",
                 "--size=64", "--steps=2", *case])
    edit.main()
    for flag in flags.FLAGS:
        flags.FLAGS[flag].unparse()
photo = Image.open("photo.png").convert("RGB")
editor = load_editor("run", size=64, steps=2)
editor.edit([photo], ["night"], show=lambda *_: None)[0].save("load_editor.png")
"""


@pytest.fixture(scope="module")
def pictures(made):
    root = str(pathlib.Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(edits(made))],
        capture_output=True, text=True, timeout=600, cwd=made.folder,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr

    def picture(name):
        return np.asarray(Image.open(made.folder / f"{name}.png")).astype(int)

    return picture


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "same", "other"),
    [
        ("loras", "by loras", "plain"),
        ("ema", "by ema", "run"),
        ("base", "by base", "plain"),
        ("base", "adapters", "plain"),
        ("run", "plain", "ema"),
        ("run", "load_editor", "ema"),
    ],
)
def test_the_picture_is_that_of_the_weights_by_hand(pictures, name, same, other):
    """To the bit: both ways round the same sums to what is stored, and run the same program."""
    np.testing.assert_array_equal(pictures(name), pictures(same))
    assert np.abs(pictures(name) - pictures(other)).max() > 2


def numbers(editor):
    model = editor.model
    tensors = published(model.config, nnx.state(model))
    return {name: tensors.read(name) for name in tensors.shapes}


@pytest.mark.parametrize(
    ("path", "options", "same"),
    [
        ("quickstart", {"loras": [("one", 0.5), ("two", -2.0)]}, "by_loras"),
        ("run", {"ema": True}, "by_ema"),
        ("lora", {"base": "moved"}, "by_base"),
        ("alone", {"base": "moved"} | dict(autoencoder="q", qwen="q/encoder"), "by_base"),
        ("run", {}, "quickstart"),
    ],
)  # fmt: skip
def test_an_editor_has_the_numbers_that_are_written(made, path, options, same):
    """Bit for bit; of `pictures`, those parts that need no compiler."""

    def place(name):
        if name.startswith("q"):
            return name.replace("q", str(QUICKSTART), 1) if name != "quickstart" else name
        return str(getattr(made, name))

    options = {n: place(x) if isinstance(x, str) else x for n, x in options.items()}
    options |= {"loras": [(place(n), scale) for n, scale in options.get("loras", ())]}
    editor = load_editor(place(path), **options)
    wanted = load_model(QUICKSTART if same == "quickstart" else getattr(made, same))
    want = published(wanted.config, nnx.state(wanted))
    plain = load_model(QUICKSTART)
    base = published(plain.config, nnx.state(plain))
    moved = 0
    for name, x in numbers(editor).items():
        np.testing.assert_array_equal(x, want.read(name), err_msg=name)
        assert x.dtype == want.dtypes[name]
        moved += (x != base.read(name)).any()
    assert (moved > 0) == (same != "quickstart")


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("lora", {}, r"lora holds adapters, and the weights .* are not in .*gone \(any more\); say"
         r" where they are \(--base="),
        ("lora", {"base": forms.GOLDEN}, "does not fit the model's sizes"),
        ("quickstart", {"base": "quickstart"}, r"is no run of adapters, .* \(--base\); leave it"),
        ("run", {"base": "quickstart"}, r"is no run of adapters, .* \(--base\); leave it out"),
        ("quickstart", {"ema": True}, "is no run of launch.train, and only runs have a moving"),
        ("alone", {"ema": True}, "has no moving average: .* leave --ema out"),
        ("quickstart", {"loras": [(forms.LORA, 1.0)]}, "it was made for another model"),
        ("quickstart", {"loras": [("golden adapters", 1.0)]}, "so it is for another model; give one"),
        ("quickstart", {"loras": [(QUICKSTART, 1.0)]}, r"is no LoRA \(Step1X-Edit, official\); give"),
        ("quickstart", {"loras": [(QUICKSTART / "autoencoder", 1.0)]},
         r"is no LoRA \(autoencoder, official\); give the file or folder of a LoRA"),
        ("quickstart", {"loras": [("run", 1.0)]}, "trained all parameters: there are no adapters"),
        ("quickstart", {"loras": [("one", float("nan"))]}, "the strength of a LoRA is nan; give a"),
        ("quickstart", {"loras": [("one", float("-inf"))]}, "the strength of a LoRA is -inf; give"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_sentence(made, tmp_path, path, options, words):
    if "golden adapters" in str(options):
        options = {"loras": [(forms.adapters_alone(tmp_path / "golden"), 1.0)]}
    loras = [
        (getattr(made, lora) if isinstance(lora, str) else lora, scale)
        for lora, scale in options.get("loras", ())
    ]
    place = path if path == "quickstart" else str(getattr(made, path))
    with pytest.raises(UserError, match=words) as caught:
        load_editor(place, **options | {"loras": loras})
    assert str(caught.value).count("\n") == 0
