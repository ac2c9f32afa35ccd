"""Drivers that are killed, doubled, and whose disk is full."""

import hashlib
import json
import random
import resource
import signal
import time

import pytest

from step1x_jax.curation.engine import driver, part_files, workdir
from step1x_jax.curation.engine.rows import StopError
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.errors import UserError
from tests.curation.engine.driving import PIPELINE, start
from tests.curation.toys import CALLS, calls, drive, toy, toy_stages

pytestmark = pytest.mark.parquet

ALL = {f"{i:06d}" for i in range(8)}  # keys of the parts
STAGES = ("source", "square", "at_most", "divisors", "once", "text")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The manifest of a run that nobody disturbs."""
    return drive(PIPELINE, tmp_path_factory.mktemp("whole"))


def committed(folder):
    """Stage -> ids of the rows in its parts that were there."""
    found = Workdir(folder)
    return {name: set(found.parts(name)) for name in STAGES}


def keys_of(ids):
    """Keys of the parts that rows of the toy are in, by their ids."""
    return {f"{int(id[1:5]) // 3:06d}" for id in ids if id != "all"}


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_kill_and_go_on(tmp_path, undisturbed, monkeypatch, moment):
    """At a random moment of about a second; what was there is not made again, all else is."""
    folder = tmp_path / "run"
    wait = random.Random(moment).uniform(0.05, 0.9)
    process = start(folder)
    assert process.stdout.readline() == "working\n"
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = committed(folder)
    noted = tmp_path / "calls"
    noted.mkdir()
    monkeypatch.setenv(CALLS, str(noted))
    assert drive(PIPELINE, folder) == undisturbed
    again = {name: keys_of(ids) for name, ids in calls(noted).items()}
    for name in ("source", "square", "at_most"):  # these are given every row
        assert again.get(name, set()) == ALL - before[name]
    assert not before["divisors"] & again.get("divisors", set())
    assert not before["text"] & again.get("text", set())
    assert_no_litter(folder)


def assert_no_litter(folder):
    """All files are those that the manifest names, and are as it says."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    named = {part["file"]: part["sha256"] for s in manifest["stages"] for part in s["parts"]}
    files = [path for path in (folder / "stages").rglob("*") if path.is_file()]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert {name: one for name, one in found.items() if not name.endswith(".json")} == named


class PowerError(BaseException):
    """The power fails."""


@pytest.mark.parametrize("nth", [8, 9])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (part_files.os, "fsync"),
        (workdir.os, "replace"),
        (workdir, "sync_folder"),
        (workdir, "write_synced"),
        (driver, "_commit"),
    ],
)
def test_every_moment_of_a_commit(tmp_path, monkeypatch, place, name, nth):
    """What had its turn before is there, and the rest is made by the next run."""
    count = 0
    real = getattr(place, name)

    def failing(*arguments):
        nonlocal count
        count += 1
        if count == nth:
            raise PowerError
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, failing)
        with pytest.raises(PowerError):
            drive(toy(), tmp_path / "run")
    assert drive(toy(), tmp_path / "run") == drive(toy(), tmp_path / "whole")
    assert_no_litter(tmp_path / "run")


def test_what_a_worker_left_is_not_taken_for_a_part(tmp_path, undisturbed):
    """Of a driver that was killed: files under temporary names, and parts without their entry."""
    folder = tmp_path / "run"
    drive(PIPELINE, folder)
    square = folder / "stages" / "square"
    parts = sorted(square.glob("*.parquet"))
    (square / "part-000003.json").unlink()
    parts[0].with_name(f".{parts[0].name}.0123abcd.tmp").write_bytes(b"half")
    parts[1].unlink()  # its entry stays
    parts[2].write_bytes(parts[2].read_bytes()[:-1])
    assert drive(PIPELINE, folder) == undisturbed
    assert_no_litter(folder)


def test_a_second_driver_is_refused(tmp_path):
    folder = tmp_path / "run"
    with Workdir(folder).driving():
        assert Workdir(folder).driven
        with pytest.raises(UserError, match=r"another launch\.curate works in"):
            drive(toy(), folder)
        assert not (folder / "stages").exists()
    assert not Workdir(folder).driven
    drive(toy(), folder)


def test_a_full_disk(tmp_path, undisturbed):
    """The kernel refuses files over 20 kB, which are the ones with data; then there is space."""
    pipeline = toy(stages=toy_stages(square={"size": 10_000}))
    whole = drive(pipeline, tmp_path / "whole")
    folder = tmp_path / "run"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StopError, match=r"could not be written \(File too large\); free space"):
            drive(pipeline, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    names = sorted(path.name for path in (folder / "stages/square").iterdir())
    assert names == []
    assert len(Workdir(folder).parts("source")) == 4
    assert drive(pipeline, folder) == whole


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values | {"key": "000009"}, "was changed"),
        (lambda values: values | {"files": []}, "files"),
        (
            lambda values: values | {"files": [values["files"][0] | {"file": "../../x.parquet"}]},
            "was changed",
        ),
        (lambda values: values | {"seconds": -1}, "seconds"),
    ],
)
def test_entries_that_were_changed(tmp_path, damage, message):
    drive(toy(), tmp_path)
    path = tmp_path / "stages/square/part-000001.json"
    path.write_text(json.dumps(damage(json.loads(path.read_bytes()))))
    with pytest.raises(UserError, match=message):
        drive(toy(), tmp_path)


def test_a_damaged_part_is_named(tmp_path):
    drive(toy(), tmp_path)
    path = next((tmp_path / "stages/square").glob("part-000001*.parquet"))
    data = path.read_bytes()
    path.write_bytes(b"x" * len(data))
    with pytest.raises(StopError, match=r"part-000001-\w+.parquet is damaged .* made anew"):
        drive(toy(stages=toy_stages(at_most={"limit": 3})), tmp_path)
    path.unlink()
    drive(toy(stages=toy_stages(at_most={"limit": 3})), tmp_path)


def test_a_workdir_on_an_object_store():
    with pytest.raises(UserError, match="is on an object store"):
        Workdir("gs://bucket/run")
