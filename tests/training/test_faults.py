"""Full disks and damaged checkpoints with real processes."""

import functools
import os
import subprocess

import pytest

from tests.training.processes import losses, run, run_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Losses and result of an uninterrupted run of eight steps, by number of processes."""

    @functools.cache
    def whole(processes):
        workdir = tmp_path_factory.mktemp("whole")
        result = run_all(workdir, 8, processes=processes)
        return losses(workdir), result

    return whole


def checkpoints(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def assert_goes_on_to_the_same_end(workdir, whole_run, processes):
    """Resume from step 2 with bitwise equal results; return the output."""
    again = run(workdir, 8, processes=processes)
    assert set(again.codes) == {0}, again.errors
    assert "Resuming from step 2 of 8" in again.said[0]
    wanted, result = whole_run(processes)
    assert losses(workdir) == wanted
    assert set(again.results) == {result}
    assert {"4", "6", "8"} <= set(checkpoints(workdir))
    return again.said[0]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB; skips if mounting is not permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr!r}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def assert_stopped_cleanly(full, workdir):
    """Each process prints one error message, and no incomplete checkpoint remains."""
    assert set(full.codes) == {1}, full.errors
    for error in full.errors:
        assert "Traceback" not in error
        assert error.splitlines()[-1].startswith("error: "), error
        assert "could not be written" in error
    assert checkpoints(workdir) == ["2"]


def test_no_large_file_can_be_written(whole_run, tmp_path):
    """From the third step on the kernel refuses files over 4 KiB."""
    workdir = tmp_path / "run"
    full = run(workdir, 8, processes=1, FULL_AT="3")
    assert_stopped_cleanly(full, workdir)
    assert_goes_on_to_the_same_end(workdir, whole_run, processes=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk(whole_run, small_disk, processes):
    """A real small disk is filled during the third step; then space is freed."""
    (small_disk / "small").touch()
    workdir = small_disk / "run"
    full = run(workdir, 8, processes=processes, FULL_AT="3")
    assert_stopped_cleanly(full, workdir)
    assert all("(No space left on device); free space" in error for error in full.errors)

    (small_disk / "ballast").unlink()
    assert_goes_on_to_the_same_end(workdir, whole_run, processes)


def largest_file(folder):
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip_a_bit(folder):
    path = largest_file(folder / "params")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder):
    path = largest_file(folder / "optimizer")
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(("damage", "processes"), [(flip_a_bit, 2), (truncate, 1)])
def test_a_damaged_newest_checkpoint(whole_run, tmp_path, damage, processes):
    """It is reported, the previous one is used, and the result is bitwise the same."""
    assert set(run(tmp_path, 4, processes=processes).codes) == {0}
    assert checkpoints(tmp_path) == ["2", "4"]
    damage(tmp_path / "checkpoints" / "4")
    said = assert_goes_on_to_the_same_end(tmp_path, whole_run, processes)
    assert "Checkpoint 4 is damaged (" in said
    assert "4.damaged" in checkpoints(tmp_path)
