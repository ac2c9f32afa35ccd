"""Real processes joined by jax.distributed: same results as one, signals and lost peers."""

import json
import signal
from collections import Counter

import pytest

from step1x_jax.data.manifest import write_dataset
from step1x_jax.training.failures.lost_peer import LOST
from step1x_jax.training.loop import train
from tests.data.examples import make_record
from tests.training.processes import losses, run, run_all
from tests.training.tiny import batches, tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run of four steps in two processes."""
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
    """kill -9 during the third step; the last checkpoint is of the second.

    The other process waits in an all-reduce until JAX misses the heartbeat and aborts it. If the
    all-reduce starts after the connection has closed, it fails and ends the process immediately.
    """
    lost = run(tmp_path, 4, KILL_AT="3")
    code, killed = lost.codes
    assert killed == -signal.SIGKILL
    assert code in (-signal.SIGABRT, LOST)
    if code == -signal.SIGABRT:
        assert "This most likely indicates that another task died" in lost.errors[0]
    assert lost.seconds < 60  # 10 s until the heartbeat is missed, plus JAX's shutdown
    assert not lost.results
    assert run_all(tmp_path, 4) == whole_run[1]
    assert losses(tmp_path) == losses(whole_run[0])


@pytest.mark.parametrize("processes", [1, 4])
def test_going_on_with_another_number_of_processes(whole_run, tmp_path, processes):
    """The data of a step depends only on its number."""
    run(tmp_path, 4, KILL_AT="3")
    run_all(tmp_path, 4, processes=processes)
    assert_close(tmp_path, whole_run[0])


def test_kill_minus_nine_and_going_on_is_bit_for_bit(tmp_path):
    """With one process."""
    whole = run_all(tmp_path / "whole", 4, processes=1)
    assert run(tmp_path / "run", 4, processes=1, KILL_AT="3").codes == [-signal.SIGKILL]
    assert run_all(tmp_path / "run", 4, processes=1) == whole
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def fed(workdir, steps):
    """Return the edits of each step, from the last run that executed it, over all processes.

    A run that resumes at step n discards what the previous run did from there on.
    """
    found = {}
    for path in sorted(workdir.glob("fed-*"), key=lambda p: int(p.name.split("-")[1])):
        first = int(path.name.split("-")[1])
        for line in path.read_text().splitlines():
            step, names = json.loads(line)
            found.setdefault(step, {}).setdefault(first, []).extend(names)
    return [found[step][max(found[step])] for step in range(steps)]


def test_an_epoch_holds_every_edit_once_whoever_dies_and_however_many_go_on(tmp_path):
    """Three buckets with batches of 8, 16 and 16: 32 / 8 + 64 / 16 + 32 / 16 = 10 steps.

    Two processes run until one is killed at step 4. Four resume from the checkpoint of step 2 until
    step 8. One resumes from step 6 (or earlier, if the kill was quicker) and finishes.
    """
    counts = {(8, 8): 32, (4, 4): 64, (2, 8): 32}
    sizes = [size for size, count in counts.items() for _ in range(count)]
    records = [make_record(i, size, width=24) for i, size in enumerate(sizes)]
    write_dataset(tmp_path / "data", records)
    data = {"DATA": str(tmp_path / "data")}
    workdir = tmp_path / "run"
    assert -signal.SIGKILL in run(workdir, 10, KILL_AT="4", **data).codes
    assert -signal.SIGKILL in run(workdir, 10, processes=4, KILL_AT="8", **data).codes
    run_all(workdir, 10, processes=1, **data)

    starts = sorted({int(path.name.split("-")[1]) for path in workdir.glob("fed-*")})
    assert len(starts) == 3  # each resumed from a checkpoint of the previous one
    steps = fed(workdir, 10)
    assert sorted(map(len, steps)) == [8] * 4 + [16] * 6
    assert Counter(name for step in steps for name in step) == Counter(map(str, range(128)))
    # Repeated steps had the same edits, whatever the number of processes.
    again = [json.loads(line) for path in workdir.glob("fed-*") for line in path.open()]
    for step, names in again:
        assert set(names) <= set(steps[step]) or step >= 10
