"""Two real processes, joined by jax.distributed, against one."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from step1x_jax.training.loop import train
from step1x_jax.training.metrics import read_metrics
from tests.training.tiny import batches, tiny_config

pytestmark = pytest.mark.slow


def run_two(workdir, steps, devices=2, **environment):
    """Trains in two processes of some CPU devices each; their results, which must agree."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("count=8", f"count={devices}")
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.training.worker",
                *map(str, (port, 2, index, workdir, steps)),
            ],
            cwd=pathlib.Path(__file__).parents[2],
            env=os.environ | {"XLA_FLAGS": flags} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    results = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        results += [line for line in out.splitlines() if line.startswith("RESULT")]
    assert len(results) == 2
    assert results[0] == results[1]
    return results[0]


def losses(workdir):
    return {row["step"]: row["loss"] for row in read_metrics(workdir)}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Four steps of two processes without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run_two(workdir, 4)


def test_two_processes_train_as_one(toy_model, whole_run, tmp_path):
    train(tiny_config(steps=4, data=2), tmp_path, batches)
    ours, theirs = losses(whole_run[0]), losses(tmp_path)
    assert list(ours) == [1, 2, 3, 4]
    assert ours == pytest.approx(theirs, rel=1e-5)  # float32 sums in another order


def test_sigterm_to_one_stops_both_and_resuming_is_bit_for_bit(whole_run, tmp_path):
    stopped = run_two(tmp_path, 4, STOP_AT="1").split()
    assert 1 <= int(stopped[1]) < 4
    assert run_two(tmp_path, 4) == whole_run[1]
    assert losses(tmp_path) == losses(whole_run[0])
