"""The engine on Ray: the same as in one process, whatever dies."""

import os
import random
import signal
import time

import pytest

from step1x_jax.curation.engine import ray_actors
from step1x_jax.curation.engine.ray_actors import ray_engine, room_for
from step1x_jax.curation.engine.rows import StopError
from step1x_jax.curation.engine.stage import Stage
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.errors import UserError
from tests.curation.engine.driving import PIPELINE, start
from tests.curation.toys import CALLS, Stops, drive, toy


def needing(**resources):
    """A stage whose workers need something."""

    class Needs(Stage):
        pass

    Needs.resources = resources
    return Needs()


@pytest.mark.parametrize(
    ("stage", "there", "most", "count", "cpus"),
    [
        (needing(CPU=1), {"CPU": 8}, 0, 7, 1),
        (needing(CPU=2), {"CPU": 8}, 0, 3, 2),
        (needing(CPU=1), {"CPU": 8}, 3, 3, 1),
        (needing(CPU=1), {"CPU": 2}, 0, 1, 1),
        (needing(CPU=1), {"CPU": 2}, 2, 2, 0.5),  # two share what is left
        (needing(CPU=1), {"CPU": 1}, 0, 1, 0),
        (needing(CPU=1, GPU=1), {"CPU": 64, "GPU": 8}, 0, 8, 1),
        (needing(CPU=1, GPU=0.5), {"CPU": 5, "GPU": 8}, 0, 4, 1),
        (needing(CPU=1, TPU=4), {"CPU": 100, "TPU": 8}, 0, 2, 1),
    ],
)
def test_actors_leave_a_cpu(stage, there, most, count, cpus):
    found, options = room_for(stage, there, most)
    assert (found, options["num_cpus"]) == (count, cpus)
    assert found * options["num_cpus"] <= max(there["CPU"] - 1, 0)
    assert options["resources"].get("TPU", 0) == stage.resources.get("TPU", 0)


def test_what_is_not_there():
    with pytest.raises(UserError, match=r"'GPU': 1.* has 0 GPU"):
        room_for(needing(CPU=1, GPU=1), {"CPU": 4})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The manifest of a run in one process."""
    return drive(PIPELINE, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """Where stages note what they are given, in all processes."""
    folder = tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv(CALLS, str(folder))
    return folder


@pytest.mark.parquet
@pytest.mark.curation
@pytest.mark.parametrize("actors", [1, 2])
def test_the_same_as_in_one_process(tmp_path, undisturbed, actors):
    with ray_engine(actors=actors) as engine:
        assert drive(PIPELINE, tmp_path / "run", engine) == undisturbed
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parquet
@pytest.mark.curation
def test_an_actor_is_killed(tmp_path, undisturbed, noted):
    """While it works on a part: that one is made by another, and none that was done before."""
    workdir = tmp_path / "run"
    killed = []

    def kill_one(plan, part):
        if plan.name == "square" and part.key >= "000002" and not killed:
            killed.append(int((noted / "square").read_text().split()[-1]))
            assert killed[0] != os.getpid()
            os.kill(killed[0], signal.SIGKILL)

    with ray_engine(actors=2) as engine:
        assert drive(PIPELINE, workdir, engine, on_part=kill_one) == undisturbed
    assert killed
    lines = (noted / "square").read_text().splitlines()
    assert 24 <= len(lines) <= 27  # of the part that it had, at most 3 rows twice
    assert len({line.split()[0] for line in lines}) == 24
    assert len({line.split()[1] for line in lines}) == 3  # two actors, and one in place of one


@pytest.mark.parquet
@pytest.mark.curation
@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 2, 3])
def test_the_driver_is_killed(tmp_path, undisturbed, noted, moment):
    workdir = tmp_path / "run"
    process = start(str(workdir), "ray", 2)
    assert process.stdout.readline() == "working\n"
    time.sleep(random.Random(moment).uniform(0.5, 4))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: set(Workdir(workdir).parts(name)) for name in ("source", "square", "at_most")}
    for path in noted.iterdir():
        path.unlink()
    with ray_engine(actors=2) as engine:
        made = []
        again = drive(
            PIPELINE, workdir, engine, on_part=lambda plan, part: made.append((plan.name, part.key))
        )
    assert again == undisturbed
    for name, keys in before.items():
        assert not keys & {key for stage, key in made if stage == name}


@pytest.mark.parquet
@pytest.mark.curation
def test_what_ends_a_stage_ends_it_here_too(tmp_path, noted):
    with (
        ray_engine(actors=1) as engine,
        pytest.raises(StopError, match="nobody answers"),
    ):
        drive(toy(stages={"stops": Stops(7)}), tmp_path / "run", engine)
    assert sorted(Workdir(tmp_path / "run").parts("stops")) == ["000000", "000001"]
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.parquet
@pytest.mark.curation
def test_a_part_at_which_every_actor_dies(tmp_path, noted, monkeypatch):
    monkeypatch.setattr(ray_actors._Actor, "make", lambda self, name, stage, job: os._exit(1))
    with (
        ray_engine(actors=1) as engine,
        pytest.raises(StopError, match="3 actors died at part 000000"),
    ):
        drive(toy(), tmp_path / "run", engine)


def test_ray_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"needs Ray: pip install 'step1x_jax\[curation\]'"),
        ray_engine(),
    ):
        pass
