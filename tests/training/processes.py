"""Distributed runs in real processes; each executes tests/training/worker.py."""

import concurrent.futures
import time
from typing import NamedTuple

from step1x_jax.training.monitoring.metrics import read_metrics
from tests.processes import start


class Run(NamedTuple):
    """Results of the processes of a run."""

    codes: list[int]
    results: list[str]
    said: list[str]
    errors: list[str]
    seconds: float  # between the ends of the first and the last process


def run(workdir, steps, processes=2, devices=4, **environment) -> Run:
    """Train in several processes with CPU devices each; worker.py explains the environment."""
    started = start(
        "tests.training.worker", workdir, steps,
        processes=processes, devices=devices // processes, **environment,
    )  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor() as threads:
        ends = [threads.submit(_end, process) for process in started]
        out, err, times = zip(*(end.result() for end in ends), strict=True)
    results = [line for text in out for line in text.splitlines() if line.startswith("RESULT")]
    codes = [process.returncode for process in started]
    return Run(codes, results, list(out), list(err), max(times) - min(times))


def _end(process):
    out, err = process.communicate(timeout=300)
    return out, err, time.monotonic()


def run_all(*args, **options) -> str:
    """Run processes that must all succeed with the same result; return it."""
    done = run(*args, **options)
    assert set(done.codes) == {0}, done.errors
    assert len(set(done.results)) == 1
    assert len(done.results) == len(done.codes)
    return done.results[0]


def losses(workdir):
    return {row["step"]: row["loss"] for row in read_metrics(workdir)}
