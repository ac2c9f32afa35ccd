"""The command itself, in processes of its own: tiny model, real records."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.data.manifest import write_dataset
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.training.monitoring.metrics import read_metrics
from step1x_jax.weights.load import load_model
from step1x_jax.weights.open import open_weights
from tests.data.examples import make_record
from tests.weights.models import save_model

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from step1x_jax.data.pipeline import DataConfig
from step1x_jax.models.config import tiny
from step1x_jax.training.config import CheckpointConfig, TrainConfig, TrainingConfig

def get_config():
    return TrainConfig(
        model=tiny(),
        data=DataConfig(path={path!r}, batch_size=4),
        training=TrainingConfig(steps=2, log_every=1),
        checkpoint=CheckpointConfig(every=1),
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A config file and its records: two aspect buckets, texts that fit the tiny model."""
    folder = tmp_path_factory.mktemp("train")
    sizes = [(4, 4), (2, 6)]
    records = [make_record(i, sizes[i % 2], tokens=3 + i % 4, width=24) for i in range(12)]
    write_dataset(folder / "records", records)
    (folder / "tiny.py").write_text(CONFIG.format(path=str(folder / "records")))
    return folder


def load_config_module(path):
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(folder):
    """One CPU device, and a home of its own for caches."""
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    return os.environ | {"HOME": str(folder), "XLA_FLAGS": flags}


def launch(folder, command, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{command}", *arguments],
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_train_and_go_on(folder):
    arguments = [f"--config={folder / 'tiny.py'}", f"--workdir={folder / 'run'}"]
    result = launch(folder, "train", *arguments)
    assert result.returncode == 0, result.stderr
    assert "Starting from random weights." in result.stdout
    assert "step 2/2  loss" in result.stdout
    assert "Done: 2 steps." in result.stdout

    # under another name: what counts is which records they are
    (folder / "records").rename(folder / "moved")
    moved = [f"--config.data.path={folder / 'moved'}/", "--config.training.steps=3"]
    result = launch(folder, "train", *arguments, *moved)
    (folder / "moved").rename(folder / "records")
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 2 of 3" in result.stdout
    assert [row["step"] for row in read_metrics(folder / "run")] == [1, 2, 3]
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["training"]["steps"] == 3

    # SIGTERM: a checkpoint, a sentence and the exit code of a process that was ended by it
    command = [sys.executable, "-m", "launch.train", *arguments, "--config.training.steps=1000000"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        while not process.stdout.readline().startswith("step "):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.startswith("Stopped as asked after step ")

    # what must not change
    result = launch(folder, "train", *arguments, "--config.training.seed=1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: training.seed is 1 but the run in")
    write_dataset(folder / "more", [make_record(i, (4, 4), tokens=3, width=24) for i in range(13)])
    result = launch(folder, "train", *arguments, f"--config.data.path={folder / 'more'}")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: the records in {folder / 'more'} are not those")


@pytest.mark.slow
def test_adapters_are_trained_written_and_found_again(folder, tmp_path):
    """The same commands: train, convert to a LoRA file and to full weights, from other folders."""
    config = load_config_module(folder / "tiny.py").get_config()
    graph, abstract = abstract_model(config.model)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 5, x.dtype), abstract)
    save_model(tmp_path / "base" / "weights.safetensors", nnx.merge(graph, weights))
    run = [f"--config={folder / 'tiny.py'}", f"--workdir={tmp_path / 'run'}"]
    lora = ["--config.lora.rank=2", "--config.lora.targets=('single_blocks.*',)"]
    start = f"--config.training.start_from={os.path.relpath(tmp_path / 'base', ROOT)}"
    result = launch(folder, "train", *run, *lora, start)
    assert result.returncode == 0, result.stderr
    assert "Adapters of rank 2 on the weights of /" in result.stdout

    files = [tmp_path / name / "x.safetensors" for name in ("lora", "full")]
    convert = [f"--input={tmp_path / 'run'}"]
    result = launch(folder, "convert", *convert, "--to=kohya", f"--output={files[0]}")
    assert result.stdout.endswith(": 6 adapted layers\n"), result.stderr
    result = launch(folder, "convert", *convert, f"--output={files[1]}")
    assert result.returncode == 0, result.stderr
    wanted = load_model(open_weights(tmp_path / "base", loras=[(files[0], 1.0)]))
    for x, y in zip(
        *(jax.tree.leaves(nnx.state(m)) for m in (load_model(files[1]), wanted)), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=1e-6)  # float32 sums

    # the base has moved: said, and mended
    files[1].unlink()
    (tmp_path / "base").rename(tmp_path / "moved")
    result = launch(folder, "convert", *convert, f"--output={files[1]}")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert f"{tmp_path / 'base'}" in result.stderr
    assert "--base" in result.stderr
    base = f"--base={tmp_path / 'moved'}"
    result = launch(folder, "convert", *convert, base, f"--output={files[1]}")
    assert result.returncode == 0, result.stderr
    moved = [f"--config.training.start_from={tmp_path / 'moved'}", "--config.training.steps=3"]
    result = launch(folder, "train", *run, *lora, *moved)
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 2 of 3" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config={config}", "--config.training.stepz=3"], "Field stepz not found"),
        (["--config={config}", "--config.training.steps=many"], "invalid literal for int"),
        (
            ["--config={config}", "--config.optimizer.b2=2"],
            "optimizer.b2 is 2.0; expected float <= 1.0",
        ),
        (["--config=nothing.py"], "--config: nothing.py does not exist"),
        (["--config={config}", "--distributed"], "leave it out on a single machine"),
        (["--config={config}", "--config.optimizer.eps=nan"], "optimizer.eps=nan: give a finite"),
        (["--config={config}", "--config.data.path=nothing"], "nothing/dataset.json is missing"),
    ],
)
def test_mistakes_are_one_sentence(folder, tmp_path, arguments, sentence):
    arguments = [argument.format(config=folder / "tiny.py") for argument in arguments]
    result = launch(folder, "train", *arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert sentence in result.stderr


@pytest.mark.slow
def test_describe(folder):
    result = launch(folder, "describe", "--config=configs/finetune_1024.py")
    assert result.returncode == 0, result.stderr
    assert "transformer: 11,891,178,560 parameters" in result.stdout
    assert "total: 12,427,800,384 parameters" in result.stdout
    assert "source  bfloat16[8, 128, 128, 16]" in result.stdout
    assert "Train step traced in" in result.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("return 1 / 0", "broken.py, line 3: ZeroDivisionError: division by zero"),
        ("return TrainConfig(dat=1)", r"broken.py, line 3: TypeError: .* argument 'dat'"),
        (
            "TrainConfig().data.path = ''",
            r"line 3: FrozenInstanceError: .* or use override",
        ),
        ("return (", r"broken.py, line 3: SyntaxError: '\(' was never closed"),
        ("return 1", "must return a TrainConfig"),
    ],
)
def test_an_error_in_a_config_file_names_its_line(tmp_path, line, message):
    text = "from step1x_jax.training.config import TrainConfig\ndef get_config():\n    "
    (tmp_path / "broken.py").write_text(text + line + "\n")
    result = launch(tmp_path, "describe", f"--config={tmp_path / 'broken.py'}")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert re.search(message, result.stderr), result.stderr


@pytest.mark.slow
def test_a_missing_flag_is_named(tmp_path):
    result = launch(tmp_path, "train", f"--workdir={tmp_path}")
    assert result.stderr == "error: --config is missing; --help tells more.\n"
