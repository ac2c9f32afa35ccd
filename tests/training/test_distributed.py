"""Real processes, joined by jax.distributed: they train as one, and survive what runs meet."""

import concurrent.futures
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from step1x_jax.training.loop import train
from step1x_jax.training.metrics import read_metrics
from tests.training.tiny import batches, tiny_config

pytestmark = pytest.mark.slow


class Run(NamedTuple):
    """How the processes of a run ended."""

    codes: list[int]
    results: list[str]
    errors: list[str]
    seconds: float  # from the end of the first process to that of the last


def run(workdir, steps, processes=2, devices=4, **environment) -> Run:
    """Trains in several processes of some CPU devices each."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("count=8", f"count={devices // processes}")
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.training.worker",
                *map(str, (port, processes, index, workdir, steps)),
            ],
            cwd=pathlib.Path(__file__).parents[2],
            env=os.environ | {"XLA_FLAGS": flags} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        ends = [threads.submit(_end, process) for process in started]
        out, err, times = zip(*(end.result() for end in ends), strict=True)
    results = [line for text in out for line in text.splitlines() if line.startswith("RESULT")]
    codes = [process.returncode for process in started]
    return Run(codes, results, list(err), max(times) - min(times))


def _end(process):
    out, err = process.communicate(timeout=300)
    return out, err, time.monotonic()


def run_all(*args, **options) -> str:
    """A run whose processes all succeed; their result, about which they agree."""
    done = run(*args, **options)
    assert set(done.codes) == {0}, done.errors
    assert len(set(done.results)) == 1
    assert len(done.results) == len(done.codes)
    return done.results[0]


def losses(workdir):
    return {row["step"]: row["loss"] for row in read_metrics(workdir)}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Four steps of two processes without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run_all(workdir, 4)


def assert_close(workdir, other):
    ours, theirs = losses(workdir), losses(other)
    assert list(ours) == [1, 2, 3, 4]
    assert ours == pytest.approx(theirs, rel=1e-5)  # float32 sums in another order


def test_two_processes_train_as_one(toy_model, whole_run, tmp_path):
    train(tiny_config(steps=4, data=2), tmp_path, batches)
    assert_close(whole_run[0], tmp_path)


def test_four_processes_train_as_two(whole_run, tmp_path):
    run_all(tmp_path, 4, processes=4)
    assert_close(tmp_path, whole_run[0])


def test_sigterm_to_one_stops_both_and_resuming_is_bit_for_bit(whole_run, tmp_path):
    stopped = run_all(tmp_path, 4, STOP_AT="1").split()
    assert 1 <= int(stopped[1]) < 4
    assert run_all(tmp_path, 4) == whole_run[1]
    assert losses(tmp_path) == losses(whole_run[0])


def test_a_lost_peer_ends_the_others_and_the_same_command_goes_on(whole_run, tmp_path):
    """kill -9 while the third step runs; the checkpoint is of the second.

    The other one waits for it within a sum over both, until the heartbeat is missed.
    """
    lost = run(tmp_path, 4, KILL_AT="3")
    assert lost.codes == [-signal.SIGABRT, -signal.SIGKILL]
    assert "This most likely indicates that another task died" in lost.errors[0]
    assert lost.seconds < 60  # 10 of silence, and what JAX takes to tell
    assert not lost.results
    assert run_all(tmp_path, 4) == whole_run[1]
    assert losses(tmp_path) == losses(whole_run[0])


@pytest.mark.parametrize("processes", [1, 4])
def test_going_on_with_another_number_of_processes(whole_run, tmp_path, processes):
    """What a step gets depends on its number alone."""
    run(tmp_path, 4, KILL_AT="3")
    run_all(tmp_path, 4, processes=processes)
    assert_close(tmp_path, whole_run[0])


def test_kill_minus_nine_and_going_on_is_bit_for_bit(tmp_path):
    """One process."""
    whole = run_all(tmp_path / "whole", 4, processes=1)
    assert run(tmp_path / "run", 4, processes=1, KILL_AT="3").codes == [-signal.SIGKILL]
    assert run_all(tmp_path / "run", 4, processes=1) == whole
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
