"""launch.curate as a user runs it: in a process of its own, with a small pipeline."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flax import nnx

from step1x_jax.data.manifest import read_manifest
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.weights.save import save_autoencoder
from tests.conditioning.small_qwen import make_folder

pytestmark = pytest.mark.parquet

ROOT = Path(__file__).parents[2]
CONFIG = "tests/curation/tiny_edits.py"


def command(action, workdir, *flags):
    config = [] if any(flag.startswith("--config=") for flag in flags) else [f"--config={CONFIG}"]
    return [
        sys.executable, "-m", "launch.curate", action, *config, f"--workdir={workdir}", *flags
    ]  # fmt: skip


def curate(action, workdir, *flags):
    """What it prints; it must succeed."""
    done = subprocess.run(
        command(action, workdir, *flags), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def error(action, workdir, *flags):
    """The one line with which it ends."""
    done = subprocess.run(
        command(action, workdir, *flags), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_from_photographs_to_batches(tmp_path):
    """In one test, for each process takes seconds to start."""
    workdir = tmp_path / "run"
    assert "source: 0 of 9 parts" in curate("status", workdir)
    curate("run", workdir)
    assert json.loads((workdir / "config.json").read_text())["stages"]["edit"]["brighter"] == 40
    status = curate("status", workdir).splitlines()
    assert status == [f"{name}: 9 of 9 parts" for name in ("source", "edit", "words", "review")]

    counted = json.loads(curate("stats", workdir, "--json"))
    assert counted["categories"]["tone_transfer"]["accepted"] == 8
    assert counted["categories"]["ps_human"]["rejected"] == {"no_face": 8}
    assert "tone_transfer" in curate("stats", workdir)

    assert "4 edits" in curate("sheet", workdir)
    assert (workdir / "sheet/sheet.png").stat().st_size > 1000
    assert "让画面更亮" in (workdir / "sheet/sheet.html").read_text()
    assert "2 edits" in curate("review", workdir, "--each=1", f"--output={tmp_path}/page")
    assert (tmp_path / "page/index.html").exists()

    config = AutoencoderConfig(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    save_autoencoder(
        tmp_path / "vae" / "weights.safetensors", Autoencoder(config, rngs=nnx.Rngs(0))
    )
    make_folder(tmp_path / "qwen")
    models = [
        f"--config.export.encoder.path={tmp_path}/qwen",
        f"--config.export.autoencoder={tmp_path}/vae",
        "--config.export.size=48", "--config.export.encoder.min_pixels=3136",
        "--config.export.encoder.dtype=float32", "--config.export.encoder.text_length=200",
    ]  # fmt: skip
    told = curate("export", workdir, *models)
    assert "12 train, 4 held_out, 0 between" in told
    assert read_manifest(workdir / "export/train/dataset.json").records == 24
    assert read_manifest(workdir / "export/held_out/dataset.json").records == 8
    data = DataConfig(path=str(workdir / "export/train"), batch_size=2)
    batch = next(make_batches(data, text_length=200, seed=0, start_step=0))
    assert batch["target"].shape[0] == 2


def test_what_goes_wrong_is_one_sentence(tmp_path):
    workdir = tmp_path / "run"
    assert "9 of 9 parts of the stage source are not there" in error("stats", workdir)
    assert "seed is -1" in error("run", workdir, "--config.seed=-1")
    assert "nope" in error("run", workdir, "--config.stages.edit.nope=1")
    assert "--ray_address is of --engine=ray" in error("run", workdir, "--ray_address=auto")
    assert "must return a CurateConfig" in error("run", workdir, "--config=configs/lora.py")
    assert not workdir.exists()


def manifest(workdir):
    return hashlib.sha256((workdir / "manifest.json").read_bytes()).hexdigest()


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    curate("run", tmp_path / "whole")
    for moment in range(3):
        workdir = tmp_path / f"run{moment}"
        process = subprocess.Popen(
            command("run", workdir), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while not (workdir / "stages/edit" / f"part-00000{2 * moment}.json").exists():
            time.sleep(0.002)
        if moment == 0:
            process.send_signal(signal.SIGSTOP)
            assert "another launch.curate works in" in error("run", workdir)
        process.send_signal(signal.SIGKILL)
        process.wait()
        curate("run", workdir)
        assert manifest(workdir) == manifest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.curation
def test_on_ray(tmp_path):
    curate("run", tmp_path / "inline")
    curate("run", tmp_path / "ray", "--engine=ray", "--actors=2")
    assert manifest(tmp_path / "ray") == manifest(tmp_path / "inline")
