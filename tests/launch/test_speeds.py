"""launch.calibrate, and how errors of speeds are measured, with a tiny random model."""

import json

import numpy as np
import pytest
from absl import flags
from flax import nnx
from PIL import Image

from launch.speeds.edits import EditSettings, compare, read_edits, table
from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.sampling.plan import BUILT_IN, SamplingPlan, every_step
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.sampling.stored_plans import read_plans
from tests.editing.test_editor import AUTOENCODER, SAMPLING, Words, picture, random_model
from tests.launch.edit_command import MODULES, alone

SETTINGS = EditSettings(6, 2.0, 0.9, 64)


class Command:
    """launch.calibrate or launch.bench in the tests' own process."""

    def __init__(self, module):
        self.module = module
        autoencoder = Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0))
        self.editor = Editor(random_model(), autoencoder, Words(), SAMPLING)
        self.loaded = 0
        (getattr(module, "bench_sample", module)).Editor = self

    def load(self, path, *, say, **options):
        self.loaded += 1
        return self.editor

    def __call__(self, *arguments):
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        words = [word for word in map(str, arguments) if not word.startswith("--")]
        flags.FLAGS(["x", *(a for a in map(str, arguments) if a.startswith("--"))])
        return self.module.main(*words)


@pytest.fixture(scope="module")
def calibrate():
    with alone(("launch.calibrate", *MODULES[1:])) as module:
        yield Command(module)


@pytest.fixture
def edits(tmp_path):
    """A list of two edits, one of them with its true edit."""
    for i, name in enumerate(("a", "b", "true")):
        picture((64, 64), i).save(tmp_path / f"{name}.png")
    rows = [
        {"image": "a.png", "instruction": "fog", "target": "true.png"},
        {"image": "b.png", "instruction": "night", "seed": 9},
    ]
    path = tmp_path / "edits.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_calibrate_stores_what_is_nearest_to_exact(calibrate, edits, tmp_path, capsys):
    out = tmp_path / "out"
    settings = ["--steps=8", "--size=64", "--guidance_scale=2", "--truncate=0.9"]
    flags = ["--model=quickstart", f"--edits={edits}", f"--output={out}", *settings]
    calibrate(*flags)
    printed = capsys.readouterr().out
    assert "share of FLOPs" in printed
    assert f"{out}/speeds.json" in printed
    plans = read_plans(out)
    assert set(plans) == set(BUILT_IN)
    # none that was tried is nearer; the built-in plan was
    rows = read_edits(str(edits))
    for name, plan in plans.items():
        assert plan.num_steps == 8
        times = timesteps(8, 16, SAMPLING.shift)
        fitted = [p.fitted(times, 0.9) for p in (plan, BUILT_IN[name].scaled(8))]
        assert len(fitted[0].computed) == len(fitted[1].computed)
        tried = {"stored": plan, "built in": BUILT_IN[name].scaled(8)}
        found = compare(calibrate.editor, rows, EditSettings(8, 2.0, 0.9, 64), tried)
        stored, built_in = (
            found[which].psnr_mean + found[which].psnr_worst for which in ("stored", "built in")
        )
        assert stored >= built_in - 1e-6
    loaded = calibrate.loaded
    with pytest.raises(UserError, match=r"speeds\.json is there already; --overwrite"):
        calibrate(*flags)
    assert calibrate.loaded == loaded
    calibrate(*flags, "--overwrite")
    assert read_plans(out) == plans


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--output="], "quickstart is a part of the package; give a folder of yours"),
        (["--speed=fast"], "--speed is what is looked for; leave it out"),
        (["--edits=gone.jsonl"], "gone.jsonl"),
        (["--model=gone"], "gone does not exist"),
    ],
)
def test_calibrate_refuses_before_anything_is_loaded(calibrate, edits, tmp_path, given, reason):
    loaded = calibrate.loaded
    defaults = ["--model=quickstart", f"--edits={edits}", f"--output={tmp_path}/out"]
    with pytest.raises(UserError, match=reason) as caught:
        calibrate(*defaults, *given)
    assert "\n" not in str(caught.value)
    assert calibrate.loaded == loaded


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "a.png"}, "edit 1 .*a.png. has no instruction"),
        ({"image": "a.png", "instruction": "x", "steps": 3}, "its own steps; give --steps"),
        ({"image": "a.png", "instruction": "x", "guidance": 3}, "give --guidance_scale"),
        ({"image": "a.png", "instruction": "x", "target": "../b.png"}, "no path inside"),
        ({"image": "a.png", "instruction": "x", "other": 1}, "unknown field other"),
    ],
)
def test_impossible_edits_are_named(tmp_path, row, reason):
    (tmp_path / "edits.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match=reason):
        read_edits(str(tmp_path / "edits.json"))


def test_of_the_quickstarts_export_one_held_out_edit_of_each_kind_is_taken(tmp_path):
    rows = [
        {
            "photograph_sha256": crop, "method": f"plain/{kind}", "language": language,
            "instruction": f"{kind} {language}", "source": f"{crop}.png", "target": f"{kind}.png",
        }
        for crop in ("one", "two")
        for kind in ("night", "mist", "frame")
        for language in ("en", "cn")
    ]  # fmt: skip
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_edits(str(tmp_path))
    assert [row.instruction.split()[0] for row in found] == ["night", "mist", "frame"]
    assert [row.seed for row in found] == [0, 1, 2]
    for row in found:
        assert row.target == str(tmp_path / f"{row.instruction.split()[0]}.png")
        assert row.image in (str(tmp_path / "one.png"), str(tmp_path / "two.png"))


def test_errors_are_to_the_exact_results_and_the_true_edits(calibrate, edits):
    few = SamplingPlan(6, (0, 5), (0, 5), 0)
    rows = read_edits(str(edits))
    assert [row.seed for row in rows] == [0, 9]
    told = []
    plans = {"few": few, "all": every_step(6)}
    found = compare(calibrate.editor, rows, SETTINGS, plans, lambda: told.append(1))
    assert len(told) == 6
    assert list(found) == ["exact", "few", "all"]
    assert (found["exact"].psnr_worst, found["exact"].true_edit_loss_worst) == (100, 0)
    assert found["all"].psnr_worst > 50  # rounding
    # by hand
    near, lost = [], []
    for row in rows:
        exact, fast = (
            np.float64(
                calibrate.editor.edit(
                    row.image, row.instruction, seed=row.seed, steps=6, guidance_scale=2.0,
                    truncate=0.9, size=64, speed=speed,
                )[0]
            )
            for speed in ("exact", few)
        )  # fmt: skip
        near.append(-10 * np.log10(np.mean((exact - fast) ** 2) / 255**2))
        if row.target:
            with Image.open(row.target) as file:
                target = np.float64(file.convert("RGB"))
            a, b = (-10 * np.log10(np.mean((x - target) ** 2) / 255**2) for x in (exact, fast))
            lost.append(a - b)
    assert found["few"].psnr_mean == pytest.approx(np.mean(near))
    assert found["few"].psnr_worst == pytest.approx(min(near))
    assert found["few"].true_edit_loss_worst == pytest.approx(max(lost))
    # two steps of six, and the one where damping ends
    assert found["few"].share_of_flops == pytest.approx(3 / 6)
    assert "few" in table(found)
