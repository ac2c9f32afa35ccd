"""The commands with everything in a bucket, as a user runs them: gcsfs, Orbax and tensorstore as
they are, talking to a stand-in for Google's server."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from step1x_jax.editing.loading import QUICKSTART
from tests.data.examples import assert_equal
from tests.data.test_precompute import read_all
from tests.gcs_server import serving

pytest.importorskip("gcsfs", reason="needs the extra [gcs]")
pytestmark = [pytest.mark.slow, pytest.mark.gcs]

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
import dataclasses
from step1x_jax.models.config import tiny
from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig

def get_config():
    model = dataclasses.replace(tiny(), connector_in_channels=128, text_length=64)
    changes = {{
        "data.path": {folder!r} + "/records",
        "data.batch_size": 2,
        "training.steps": 6,
        "training.log_every": 1,
        "checkpoint.every": 2,
        "held_out.path": {folder!r} + "/records",
        "held_out.every": 3,
        "held_out.batches": 1,
        "held_out.pictures": 1,
        "autoencoder": {folder!r} + "/model/autoencoder",
        "encoder.path": {folder!r} + "/model/encoder",
        "encoder.min_pixels": 3136,
        "sampling.size": 64,
        "sampling.num_steps": 2,
    }}
    return override(TrainConfig(model=model), changes)
"""
BUCKET = "gs://bucket"


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """Pictures, a list of edits, and configs for this folder and for a bucket."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        for name in (f"s{i}.png", f"t{i}.png"):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / name)
        rows.append(f'{{"source": "s{i}.png", "target": "t{i}.png", "instruction": "edit {i}"}}')
    (tmp_path / "edits.jsonl").write_text("\n".join(rows))
    (tmp_path / "model").symlink_to(QUICKSTART)
    for name, place in {"local": str(tmp_path), "bucket": BUCKET}.items():
        (tmp_path / f"{name}.py").write_text(CONFIG.format(folder=place))
    return tmp_path


def upload(server, folder, name):
    """A file or folder of `folder` to the bucket."""
    path = folder / name
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        server.store.put(f"bucket/{file.relative_to(folder)}", file.read_bytes())


def environment(server, folder):
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    return os.environ | {
        "HOME": str(folder), "XLA_FLAGS": flags, "GOOGLE_CLOUD_PROJECT": "project",
        "STORAGE_EMULATOR_HOST": server.url, "TENSORSTORE_GCS_HTTP_URL": server.url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gRPC, which the stand-in has not
    }  # fmt: skip


def test_from_pictures_to_an_edit(server, folder):
    for name in ("edits.jsonl", "model", *(f"{k}{i}.png" for k in "st" for i in range(4))):
        upload(server, folder, name)

    def launch(command, *arguments):
        result = subprocess.run(
            [sys.executable, "-m", f"launch.{command}", *arguments],
            cwd=ROOT, env=environment(server, folder), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    def precompute(place):
        launch(
            "precompute", f"--input={place}/edits.jsonl", f"--output={place}/records",
            f"--text_encoder={place}/model/encoder", f"--vae={place}/model/autoencoder",
            "--size=64", "--min_pixels=3136", "--text_length=64", "--part_size=2",
        )  # fmt: skip

    precompute(BUCKET)
    precompute(folder)
    copy = folder / "copy"
    copy.mkdir()
    for name in [name for name in server.store.names if name.startswith("bucket/records/")]:
        (copy / name.rsplit("/", 1)[1]).write_bytes(server.store.get(name)[1])
    here, there = read_all(folder / "records"), read_all(copy)
    assert len(here) == 4
    assert here.keys() == there.keys()
    for name, record in here.items():
        assert_equal(record, there[name])

    # killed after its checkpoint of step 4, gone on, and equal to a run on a disk that was not
    train = ["train", f"--config={folder}/bucket.py", f"--workdir={BUCKET}/run"]
    with subprocess.Popen(
        [sys.executable, "-m", f"launch.{train[0]}", *train[1:], "--config.training.steps=1000"],
        cwd=ROOT, env=environment(server, folder), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        while "bucket/run/checkpoints/4/commit_success.txt" not in server.store.names:
            assert process.poll() is None
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    done = max(
        int(name.split("/")[3])
        for name in server.store.names
        if name.startswith("bucket/run/checkpoints/") and name.count("/") == 4
        and name.endswith("commit_success.txt")
    )  # fmt: skip
    steps = f"--config.training.steps={done + 3}"
    assert f"Resuming from step {done} of {done + 3}" in launch(*train, steps)
    launch("train", f"--config={folder}/local.py", f"--workdir={folder}/run", steps)

    rows = server.store.get("bucket/run/metrics.jsonl")[1].decode().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, done + 4))

    launch("convert", f"--input={BUCKET}/run", f"--output={BUCKET}/out/weights.safetensors")
    launch("convert", f"--input={folder}/run", f"--output={folder}/out/weights.safetensors")
    weights = (folder / "out" / "weights.safetensors").read_bytes()
    assert server.store.get("bucket/out/weights.safetensors")[1] == weights

    edit = ["--instruction=edit 1", "--dtype=float32", "--steps=2"]
    launch("edit", f"--model={BUCKET}/run", f"--image={BUCKET}/s0.png",
           f"--output={BUCKET}/edited.png", *edit)  # fmt: skip
    launch("edit", f"--model={folder}/run", f"--image={folder}/s0.png",
           f"--output={folder}/edited.png", *edit)  # fmt: skip
    pictures = server.store.get("bucket/edited.png")[1], (folder / "edited.png").read_bytes()
    there, here = (np.asarray(Image.open(io.BytesIO(data))) for data in pictures)
    np.testing.assert_array_equal(there, here)  # what is noted beside the pixels has the paths

    for name in ("config.json", "metrics.jsonl", f"pictures/step-{done + 2}.png"):
        assert f"bucket/run/{name}" in server.store.names, name
    assert any("bucket/run/tensorboard/events" in name for name in server.store.names)
    assert not server.store.refused  # nothing was copied or renamed
