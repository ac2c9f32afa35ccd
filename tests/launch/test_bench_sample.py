"""launch.bench sample, with a tiny random model."""

import json

import pytest
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.sampling.plan import SamplingPlan
from tests.launch.edit_command import MODULES, alone
from tests.launch.test_speeds import Command, edits  # noqa: F401


@pytest.fixture(scope="module")
def bench():
    benches = tuple(f"launch.benches.{n}" for n in ("attention", "encoder", "loader", "sample"))
    with alone(("launch.bench", *benches, *MODULES[1:])) as module:
        yield Command(module)


@pytest.mark.slow
def test_figures_by_modes_and_a_picture(bench, edits, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("matplotlib")
    path, drawn = tmp_path / "out.json", tmp_path / "out.png"
    bench(
        "sample", "--error", "--model=quickstart", f"--edits={edits}", "--steps=8", "--size=64",
        "--guidance_scale=2", f"--json={path}", f"--picture={drawn}",
    )  # fmt: skip
    written = json.loads(path.read_text())["modes"]
    assert set(written) == {
        "exact", "unconditional held", "balanced", "balanced, unconditional held", "fast",
        "fast, unconditional held",
    }  # fmt: skip
    names = {"share_of_flops", "psnr_mean", "psnr_worst", "true_edit_loss_worst", "seconds"}
    assert all(set(figures) == names for figures in written.values())
    shares = [written[name]["share_of_flops"] for name in ("exact", "balanced", "fast")]
    assert shares == sorted(shares, reverse=True)
    assert (
        written["fast, unconditional held"]["share_of_flops"] <= written["fast"]["share_of_flops"]
    )
    with Image.open(drawn) as image:
        assert image.width > 300
    assert "mode fast" in capsys.readouterr().out


def test_the_unconditional_branch_is_held_at_every_second_step_but_not_at_the_end(bench):
    plan = SamplingPlan(12, (0, 1, 3, 5, 7, 9, 10, 11), (0, 1, 3, 5, 7, 9, 10, 11), 0)
    held = bench.module.bench_sample.held(plan)
    assert held == SamplingPlan(12, plan.computed, (0, 3, 7, 9, 10, 11), 0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "--error is missing: give --error, --model and --edits"),
        (["--error", "--model=quickstart"], "--edits is missing"),
        (["--error", "--model=quickstart", "--edits=x", "--speed=fast"], "--speed: all speeds are"),
        (["--error", "--model=quickstart", "--edits=gone.json"], "gone.json"),
    ],
)
def test_what_is_missing_is_said(bench, given, reason):
    with pytest.raises(UserError, match=reason):
        bench("sample", *given)
