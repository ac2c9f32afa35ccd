"""Editor.edit(speed=): plans by name, stored with a model, or given."""

import dataclasses

import numpy as np
import pytest

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.editing.settings import folder_of_plans, plans_of
from step1x_jax.errors import UserError
from step1x_jax.sampling.plan import BUILT_IN, SamplingPlan, every_step
from step1x_jax.sampling.stored_plans import write_plans
from step1x_jax.weights.open import open_weights
from tests.editing.test_editor import editor, entries, picture, random_model  # noqa: F401
from tests.weights.models import save_model

STEPS = 6
FEW = SamplingPlan(STEPS, (0, 3), (0, 3), 0)


def edited(editor, **settings):  # noqa: F811
    return np.asarray(editor.edit(picture((64, 64)), "fog", steps=STEPS, **settings)[0], np.int32)


@pytest.mark.slow
def test_a_speed_is_its_plan(editor):  # noqa: F811
    exact = edited(editor)
    np.testing.assert_array_equal(edited(editor, speed="exact"), exact)
    assert np.abs(edited(editor, speed=every_step(STEPS)) - exact).max() <= 1  # rounding
    few = edited(editor, speed=FEW)
    assert np.abs(few - exact).max() > 1
    fast = BUILT_IN["fast"].scaled(STEPS)
    np.testing.assert_array_equal(edited(editor, speed="fast"), edited(editor, speed=fast))
    assert fast != FEW

    storing = dataclasses.replace(editor, plans={"fast": FEW})
    np.testing.assert_array_equal(edited(storing, speed="fast"), few)
    sampling = dataclasses.replace(editor.sampling, speed="fast")
    by_default = dataclasses.replace(storing, sampling=sampling)
    np.testing.assert_array_equal(edited(by_default), few)
    np.testing.assert_array_equal(edited(by_default, speed="exact"), exact)


def test_every_step_is_told_and_previewed(editor):  # noqa: F811
    seen = []
    edited(editor, speed=FEW, on_step=seen.append, previews=2)
    assert [step.number for step in seen] == list(range(1, STEPS + 1))
    assert [step.previews is not None for step in seen] == [False, True] * 3


def test_a_skipped_step_can_be_the_last(editor):  # noqa: F811
    class StopError(Exception):
        pass

    def stop(step):
        if step.number == 2:  # skipped
            raise StopError

    with pytest.raises(StopError):
        edited(editor, speed=FEW, on_step=stop)


def test_text_alone_has_speeds(editor):  # noqa: F811
    exact, few = (
        np.asarray(editor.generate("a cat", size=64, steps=STEPS, speed=speed)[0], np.int32)
        for speed in ("exact", FEW)
    )
    assert np.abs(few - exact).max() > 1


@pytest.mark.parametrize(
    ("speed", "reason"),
    [
        ("quick", "speed is 'quick'"),
        (3, "speed is 3"),
        (SamplingPlan(5, (0,), (0,)), "the plan is for 5 steps, and there are 6"),
        (SamplingPlan(STEPS, (1,), (1,)), "the plan: computed should be ascending steps"),
    ],
)
def test_an_impossible_speed_is_refused_before_anything_runs(editor, speed, reason):  # noqa: F811
    before = len(editor.encoder.seen)
    with pytest.raises(UserError, match=reason) as caught:
        editor.edit(picture((48, 64), 9), "something else", steps=STEPS, speed=speed)
    assert "\n" not in str(caught.value)
    assert len(editor.encoder.seen) == before


def test_plans_are_stored_beside_a_file_or_in_the_folder(tmp_path):
    save_model(tmp_path / "mine.safetensors", random_model(), fields=entries(EncoderConfig()))
    for path in (tmp_path / "mine.safetensors", tmp_path):
        weights = open_weights(path)
        assert folder_of_plans(weights) == tmp_path
        assert plans_of(weights) == {}
    write_plans(tmp_path, {"fast": FEW})
    for path in (tmp_path / "mine.safetensors", tmp_path):
        assert plans_of(open_weights(path)) == {"fast": FEW}
    (tmp_path / "speeds.json").write_text("{")
    with pytest.raises(UserError, match=r"speeds\.json is not valid JSON"):
        plans_of(open_weights(tmp_path))
