"""launch.bench as a user runs it, at tiny sizes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*arguments):
    command = [sys.executable, "-m", "launch.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_encoder_beside_transformers(tmp_path):
    path = tmp_path / "rows.json"
    done = bench("encoder", "--tiny", "--batch_sizes=1,3", f"--json={path}")
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert {"device", "jax"} <= result["where"].keys()
    ours = [row for row in result["rows"] if row["encoder"] == "jax"]
    assert [row["batch"] for row in ours] == [1, 3]
    theirs = [row for row in result["rows"] if row["encoder"] == "transformers"]
    for row in theirs:
        if "skipped" not in row:  # without torch
            (one,) = [our for our in ours if our["batch"] == row["batch"]]
            assert row["jax is faster by"] == pytest.approx(one["pictures/s"] / row["pictures/s"])


@pytest.mark.slow
def test_attention_by_all_that_runs_here_and_the_rest_by_name(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--pixels=16", "--attention_batches=1", "--heads=1", f"--json={path}"]
    done = bench("attention", *flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    computed, peak, rows = rows[:3], rows[3], rows[4:]
    assert [row["computed for"] for row in computed] == ["v5p", "v5e", "v6e"]
    # 642 tokens, one head of 128: 0.211 GFLOP; at 459 TFLOP/s
    assert computed[0]["ms forward"] == pytest.approx(4 * 642**2 * 128 / 459e9)
    measured = [row for row in rows if "skipped" not in row]
    assert {row["by"] for row in measured} == {"xla", "pallas_tpu"}
    assert len(measured) == 8
    for row in measured:
        work = 4 * 642**2 * 128 * (3.5 if "backward" in row["what"] else 1)
        assert row["TFLOP/s"] == pytest.approx(work / row["ms"] / 1e9)
        assert row["of matmul peak"] == pytest.approx(row["TFLOP/s"] / peak["TFLOP/s"])
    skipped = {row["by"]: row["skipped"] for row in rows if "skipped" in row}
    assert "runs on NVIDIA GPUs" in skipped["cudnn"]


@pytest.mark.slow
def test_the_search_prints_lines_of_the_table(tmp_path):
    """Two sizes only, interpreted; a process of its own for the flags."""
    program = (
        "import sys; from launch import bench; from launch.benches import attention as b;"
        "b.tuning.BLOCK_SIZES = (384, 128); b.TEXT = 100;"
        "bench.run(bench.main, operands=tuple(bench.BENCHMARKS))"
    )
    path = tmp_path / "rows.json"
    flags = ["attention", "--tune", "--pixels=16", "--heads=1", f"--json={path}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())["rows"]
    sizes = r"\((384|128), (384|128)\)"
    pattern = rf'\("cpu", 102\): Blocks\(forward={sizes}, backward={sizes}\),'
    assert re.fullmatch(pattern, row["entry"])
    assert row["ms with forward"] > 0


@pytest.mark.slow
def test_what_can_be_measured_is_said():
    done = bench("decoder")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "error: give one of attention, encoder, loader, sample, then flags."


@pytest.mark.slow
def test_the_loader_beside_what_chips_take(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--loader_pixels=512", "--records=16", "--threads=0,2", f"--json={path}"]
    done = bench("loader", *flags, f"--folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [row["threads"] for row in rows] == [0, 2]
    for row in rows:
        # two texts of 640 x 3584 and two pictures of 64 x 64 x 16, two bytes each
        assert row["MB an edit"] == pytest.approx(
            (2 * 640 * 3584 + 2 * 64 * 64 * 16) * 2e-6, rel=1e-3
        )
        assert row["MB/s"] == pytest.approx(row["edits/s"] * row["MB an edit"])
        # 125 TFLOP forward and backward an edit at 512 px: 4 x 459 TFLOP/s
        assert row["TPU v5 host could take"] == pytest.approx(14.6, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--pixels=abc", "--pixels=64,0", "--attention_batches=-1"])
def test_lists_of_numbers_are_checked_before_work(flag):
    done = bench("attention", flag)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: flag {flag}: ")
    assert len(done.stderr.splitlines()) == 1
