"""launch.evaluate reference on a data set with true edits."""

import json

import pytest

from step1x_jax.errors import UserError
from tests.evaluation.toy import picture, png, toy_rows, toy_samples, write_listed, write_results
from tests.launch.evaluate_command import evaluate


@pytest.mark.evaluation
def test_methods_are_measured_against_target_and_source(tmp_path, capsys):
    pytest.importorskip("skimage", reason="needs the extra [evaluation]")
    tasks = ("color_alter", "ps_human")
    rows = toy_rows(2, tasks)
    samples = toy_samples(2, tasks)
    folder = write_results(tmp_path / "results" / "right", samples)
    write_results(tmp_path / "results" / "wrong", samples, "other")
    for row in rows:  # the true edit is what one of them made
        file = folder / "fullset" / row["task_type"] / row["instruction_language"]
        made = (file / f"{row['key']}.png").read_bytes()
        row["edited"] = {"bytes": made, "path": None}
    rows[0]["edited"] = {"bytes": png(picture("elsewhere")), "path": None}
    write_listed(tmp_path / "data", rows)
    with evaluate("reference", ("launch.evaluations.benchmark_flags",)) as (reference, _):
        arguments = [
            f"--dataset={tmp_path}/data", f"--results={tmp_path}/results",
            "--methods=right,wrong", "--target=edited",
        ]  # fmt: skip
        reference(*arguments, f"--output={tmp_path}/reference.json")
        text = capsys.readouterr().out
        for title in ("EN against the target", "CN against the source"):
            assert f"## {title}" in text
        assert "right: 3 of 4 pictures are equal to the target" in text  # English has the odd one
        values = json.loads((tmp_path / "reference.json").read_text())
        averages = {(r["language"], r["method"], r["column"]): r["average"] for r in values["rows"]}
        assert averages["cn", "right", "target_l1"] == 0
        assert averages["cn", "right", "target_ssim"] == pytest.approx(1, abs=1e-12)
        assert averages["cn", "wrong", "target_l1"] > 0.05
        assert averages["en", "right", "target_l1"] > 0
        assert values["counts"]["wrong"] == {"measured": 8, "missing": 0, "unreadable": 0}
        with pytest.raises(UserError, match="--caption is for CLIP-T, which needs --clip"):
            reference(*arguments, "--caption=about")
        with pytest.raises(UserError, match="gone is missing"):
            reference(*arguments[:-1], "--target=gone")
