"""launch.curation.editor: the real editor, with a tiny random model, makes a stage's candidates."""

import io

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from launch.curation import editor as curate_editor
from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.engine.rows import Context
from step1x_jax.curation.operators.own_editor import OwnEditor
from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from tests.editing.test_editor import AUTOENCODER, SAMPLING, Words, random_model

SETTINGS = {"model": "quickstart", "size": 64, "steps": 2}


def stage_of(**settings):
    stage = OwnEditor(**SETTINGS | settings)
    curate_editor.give_editors(CurateConfig(stages={"edit": stage}))
    return stage


@pytest.mark.slow
def test_candidates_are_the_editors(monkeypatch):
    autoencoder = Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0))
    editor = Editor(random_model(), autoencoder, Words(), SAMPLING)
    asked = {}

    def load(path, **options):
        asked.update(options, path=path)
        return editor

    monkeypatch.setattr(curate_editor.Editor, "load", load)
    stage = stage_of(count=2, ema=True, guidance=3.0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    stream = io.BytesIO()
    picture.save(stream, "png")
    row = {"id": "a", "source": stream.getvalue(), "instruction_en": "make it blue"}
    (made,) = map(list, stage.open()([row], Context(0, "edit", "p", "")))
    assert asked["path"] == "quickstart"
    assert asked["ema"]
    assert asked["vae"] is None
    assert [one["candidate"] for one in made] == [0, 1]
    for one in made:
        (expected,) = editor.edit(
            picture, "make it blue", seed=int(one["seed"]), size=64, steps=2, guidance_scale=3.0
        )
        got = np.asarray(Image.open(io.BytesIO(one["target"])))
        np.testing.assert_array_equal(got, np.asarray(expected))


def test_its_weights_are_of_the_fingerprint(tmp_path):
    before = stage_of().fingerprint()
    assert stage_of().fingerprint() == before
    assert stage_of(dtype="bfloat16").fingerprint() != before
    with pytest.raises(UserError):
        stage_of(model=str(tmp_path / "nothing")).fingerprint()
