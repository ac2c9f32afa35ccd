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
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx
from PIL import Image

from step1x_jax.editing import loading
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.editing.settings import encoder_of, sampling_of
from step1x_jax.errors import UserError
from step1x_jax.models.config import LoraConfig
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.step.train_step import abstract_state, init_state
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import Adapters, abstract_adapters
from step1x_jax.weights.lora.writers import save_kohya
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.fingerprints import describe_arrays, name_arrays
from step1x_jax.weights.run.writer import write_adapters_folder, write_weights_folder
from tests.launch.test_convert import main_with
from tests.training.tiny import tiny_config
from tests.weights import formats
from tests.weights.models import published

LORA = LoraConfig(rank=2, alpha=4.0)
COMPANIONS = (f"--vae={QUICKSTART}", f"--text_encoder={QUICKSTART / 'encoder'}")


def adapters(seed):
    """Random ones that change a picture and do not spoil it."""
    rng = np.random.default_rng(seed)
    abstract = abstract_adapters(load_model(QUICKSTART).config, LORA)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 9, x.dtype), abstract)


def save_run(folder, lora, start_from):
    """A run with the settings of the quickstart, which names its autoencoder and its encoder."""
    weights = open_weights(QUICKSTART)
    config = override(
        tiny_config(),
        {
            "model": load_model(QUICKSTART).config,
            "lora": lora,
            "sampling": sampling_of(weights),
            "encoder": encoder_of(weights),
            "encoder.path": str(QUICKSTART / "encoder"),
            "autoencoder": str(QUICKSTART / "autoencoder"),
            "training.start_from": str(start_from),
            "mesh": MeshConfig(fsdp=1),
        },
    )
    abstract = abstract_state(config, make_mesh(config.mesh, jax.devices()[:1]))
    base = nnx.state(load_model(QUICKSTART))
    state = init_state(config, abstract, adapters(0) if lora.rank else base)
    state = dataclasses.replace(state, ema=jax.tree.map(lambda x: 0.9 * x, state.ema))
    saved = describe_arrays(name_arrays(nnx.state(load_model(QUICKSTART)))) if lora.rank else None
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state, config, saved)
    checkpoints.close()
    return folder


class Made:
    """What is edited with, each made when it is first asked for."""

    def __init__(self, folder):
        self.folder = folder

    @cached_property
    def photo(self):
        pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(self.folder / "photo.png")
        return self.folder / "photo.png"

    @cached_property
    def moved(self):
        return shutil.copytree(QUICKSTART, self.folder / "moved")

    @cached_property
    def weights(self):
        weights = open_weights(QUICKSTART)
        write_weights_folder(self.folder / "weights", weights.tensors, weights.config, {})
        return self.folder / "weights"

    @cached_property
    def one(self):
        return self._lora("one.safetensors", 0)

    @cached_property
    def two(self):
        return self._lora("two.safetensors", 1)

    def _lora(self, name, seed):
        model = load_model(QUICKSTART).config
        save_kohya(self.folder / name, Adapters(adapters(seed), model, LORA))
        return self.folder / name

    @cached_property
    def alone(self):
        model = load_model(QUICKSTART).config
        write_adapters_folder(self.folder / "alone", adapters(0), model, LORA)
        return self.folder / "alone"

    @cached_property
    def golden(self):
        return formats.adapters_alone(self.folder / "golden")

    @cached_property
    def run(self):
        return save_run(self.folder / "runs" / "mine", LoraConfig(), "")

    @cached_property
    def lora(self):
        return save_run(self.folder / "lora", LORA, self.folder / "gone")

    @cached_property
    def by_loras(self):
        return self._converted("by_loras", "--input=quickstart", *two_loras(self))

    @cached_property
    def by_ema(self):
        return self._converted("by_ema", f"--input={self.run}", "--ema")

    @cached_property
    def by_base(self):
        return self._converted("by_base", f"--input={self.lora}", f"--base={self.moved}")

    def _converted(self, name, *flags):
        with flagsaver.flagsaver():
            main_with(f"--output={self.folder / name}", *flags)
        return self.folder / name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made"))


def two_loras(made):
    return [f"--lora={made.one}", f"--lora={made.two}", "--lora_scale=0.5", "--lora_scale=-2"]


# What is asked of launch.edit.
def edits(made):
    of_quickstart = "--model=quickstart"
    return {
        "plain": [of_quickstart],
        "loras": [of_quickstart, *two_loras(made)],
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
from step1x_jax.editing.editor import Editor

cases = json.loads(sys.argv[1])
for name, case in cases.items():
    output = f"{name}.png"
    flags.FLAGS(["edit", "--instruction=night", "--image=photo.png", f"--output={output}",
                 "--size=64", "--steps=2", *case])
    edit.main()
    for flag in flags.FLAGS:
        flags.FLAGS[flag].unparse()
photo = Image.open("photo.png").convert("RGB")
editor = Editor.load("runs/mine")
edited = editor.edit(photo, "night", size=64, steps=2, on_step=lambda step: None)
edited[0].save("editor_load.png")
"""


@pytest.fixture(scope="module")
def pictures(made):
    root, photo = str(pathlib.Path(__file__).parents[2]), made.photo
    result = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(edits(made))],
        capture_output=True, text=True, timeout=600, cwd=photo.parent,
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
        ("run", "editor_load", "ema"),
    ],
)
def test_the_picture_is_that_of_the_weights_by_hand(pictures, name, same, other):
    """To the bit: both ways round the same sums to what is stored, and run the same program."""
    np.testing.assert_array_equal(pictures(name), pictures(same))
    assert np.abs(pictures(name) - pictures(other)).max() > 2


def numbers(model):
    tensors = published(model.config, nnx.state(model))
    return {name: tensors.read(name) for name in tensors.shapes}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"model": "quickstart", "loras": {"one": 0.5, "two": -2.0}}, "by_loras"),
        ({"model": "run", "ema": True}, "by_ema"),
        ({"model": "lora", "base": "moved"}, "by_base"),
        ({"model": "alone", "base": "moved"}, "by_base"),
    ],
)
def test_an_editor_has_the_numbers_that_are_written(made, options, same):
    """As the pictures say, of which 8 bits remain, here for all of them; not the quickstart's."""
    if options["model"] == "alone":  # it does not say where its companions are
        options = options | {"vae": str(QUICKSTART), "text_encoder": str(QUICKSTART / "encoder")}
    found = numbers(editor_of(made, **options).model)
    want, before = numbers(load_model(getattr(made, same))), numbers(load_model(QUICKSTART))
    for name, x in want.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
        assert found[name].dtype == x.dtype
    assert any((x != before[name]).any() for name, x in want.items())


def editor_of(made, model, loras=None, **options):
    """Editor.load with names of `Made` for paths."""

    def place(name):
        return str(getattr(made, name, name))

    return Editor.load(
        place(model),
        loras=[(place(name), scale) for name, scale in (loras or {}).items()],
        **{n: place(x) if isinstance(x, str) else x for n, x in options.items()},
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "lora"},
         r"lora holds adapters, but the weights .* are not in .*gone \(any more\); give"
         r" them as --base to launch\.edit or launch\.convert"),
        ({"model": "alone"}, r"not in it \(any more\); give them as --base"),
        ({"model": "alone", "base": str(formats.GOLDEN)}, "were trained on v1.0; give their base"),
        ({"model": "quickstart", "base": "quickstart"},
         r"is not a run of adapters, .* leave --base out"),
        ({"model": "weights", "base": "quickstart"},
         r"is not a run of adapters, .* leave --base out"),
        ({"model": "quickstart", "ema": True}, "is not a run of launch.train, and only runs have"),
        ({"model": "alone", "ema": True}, "has no moving average, .* leave --ema out"),
        ({"model": "quickstart", "loras": {str(formats.LORA): 1.0}},
         "it was made for another model"),
        ({"model": "quickstart", "loras": {"golden": 1.0}}, "so it is for another model; give"),
        ({"model": "quickstart", "loras": {str(QUICKSTART): 1.0}},
         r"is not a LoRA \(Step1X-Edit, official\); give the file or folder of a LoRA, or a run"),
        ({"model": "quickstart", "loras": {str(QUICKSTART / "autoencoder"): 1.0}},
         r"is not a LoRA \(autoencoder, official\); give the file or folder of a LoRA"),
        ({"model": "quickstart", "loras": {"weights": 1.0}},
         "trained all parameters, so it has no adapters"),
        ({"model": "quickstart", "loras": {"one": float("nan")}}, "the strength of a LoRA is nan"),
        ({"model": "quickstart", "loras": {"one": float("-inf")}},
         "the strength of a LoRA is -inf; give a finite number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_sentence(made, monkeypatch, options, words):
    monkeypatch.setattr(loading, "load_model", None)  # before anything is read
    with pytest.raises(UserError, match=words) as caught:
        editor_of(made, **options)
    assert str(caught.value).count("\n") == 0
