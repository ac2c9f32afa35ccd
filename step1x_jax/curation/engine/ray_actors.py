"""The engine that works in Ray's actors: on all cores of a machine, or on a cluster.

Ray is imported here alone (extra [curation]). An actor has one stage and makes one part at a time;
it writes files under temporary names, and this process gives them theirs. So nothing depends on
when actors begin or end: one that dies is replaced, and its part made again.
"""

import collections
import contextlib
import math
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from step1x_jax.curation.engine.rows import StopError
from step1x_jax.curation.engine.stage import Stage
from step1x_jax.curation.engine.worker import Made, PartJob, Worker
from step1x_jax.errors import UserError

MOST_DEATHS = 3  # of actors at one part
LEFT_FREE = 1.0  # CPUs, for this process and what else there is


class RayActors:
    """Actors on a Ray that `ray_engine` has joined or started."""

    def __init__(self, ray: Any, most: int):
        """Start no actor yet.

        Args:
          ray: the library, joined.
          most: actors of a stage; 0: as many as there is room for.
        """
        self._ray = ray
        self._most = most
        self._actors: list[Any] = []  # of the latest stage
        self._options: dict[str, Any] = {}  # what each of them takes

    def run(self, name: str, stage: Stage, jobs: Iterable[PartJob]) -> Iterator[Made]:
        """See `Engine`."""
        self._send_class(type(stage))
        count, options = room_for(stage, self._ray.cluster_resources(), self._most)
        # A process takes seconds to start. One with an accelerator may still have its memory.
        if options != self._options or options["num_gpus"] or options["resources"]:
            self.end()
        self._options = options
        del self._actors[count:]
        pool = _Pool(self._ray, name, stage, options, self._actors)
        try:
            yield from pool.work(jobs, count)
        except BaseException:
            self.end()
            raise

    def _send_class(self, kind: type) -> None:
        """Let actors have a class that they cannot import: one in the file of --config itself."""
        package = kind.__module__.partition(".")[0]
        if not any(finder.find_spec(package, None) for finder in sys.meta_path):
            self._ray.cloudpickle.register_pickle_by_value(sys.modules[kind.__module__])

    def end(self) -> None:
        """End all actors, at once."""
        for actor in self._actors:
            with contextlib.suppress(Exception):  # whatever Ray says of one that is dead already
                self._ray.kill(actor)
        self._actors.clear()


def room_for(
    stage: Stage, resources: dict[str, float], most: int = 0
) -> tuple[int, dict[str, Any]]:
    """How many actors of a stage there may be, and what each takes, in Ray's words.

    Never do they take all CPUs: then a task that waits for one would wait for ever.

    Args:
      stage: says what an actor needs.
      resources: that there are.
      most: actors that are wanted; 0: as many as there is room for.

    Raises:
      UserError: there is no room for one.
    """
    need = {kind: amount for kind, amount in stage.resources.items() if amount}
    cpus = need.pop("CPU", 0.0)
    counts = [math.floor(resources.get(kind, 0.0) / amount) for kind, amount in need.items()]
    if 0 in counts:
        there = ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in need)
        raise UserError(f"a stage needs {need} for each actor, and Ray has {there}; add machines.")
    free = max(resources.get("CPU", 0.0) - LEFT_FREE, 0.0)
    if most:
        counts.append(most)
    elif cpus:
        counts.append(max(math.floor(free / cpus), 1))
    count = max(min(counts, default=1), 1)
    # Where there is too little, actors share it: they then compete, and still leave some free.
    options: dict[str, Any] = {"num_cpus": min(cpus, math.floor(1e4 * free / count) / 1e4)}
    options["num_gpus"] = need.pop("GPU", 0)
    options["resources"] = need
    return count, options


class _Pool:
    """The actors of a stage."""

    def __init__(
        self, ray: Any, name: str, stage: Stage, options: dict[str, Any], actors: list[Any]
    ):
        """Start no actor yet.

        Args:
          ray: the library.
          name: of the stage.
          stage: what to do.
          options: what each actor takes.
          actors: those that there are, without work; holds all that there are at any time.
        """
        self._ray = ray
        self._new = lambda: ray.remote(_Actor).options(**options).remote()
        self._task = name, stage
        self._actors = actors
        self._free = list(actors)
        self._working: dict[
            Any, tuple[Any, PartJob]
        ] = {}  # what an actor is to give -> who makes what
        self._deaths: collections.Counter[str] = collections.Counter()

    def work(self, jobs: Iterable[PartJob], count: int) -> Iterator[Made]:
        """Make parts with at most so many actors; an actor begins when there is a job for it."""
        waiting = iter(jobs)
        for job in waiting:
            self._begin(job)
            if len(self._working) == count:
                break
        while self._working:
            (done,), _ = self._ray.wait(list(self._working), num_returns=1)
            actor, job = self._working.pop(done)
            try:
                made = self._ray.get(done)
            except self._ray.exceptions.RayActorError as e:
                self._actors.remove(actor)
                self._deaths[job.key] += 1
                if self._deaths[job.key] >= MOST_DEATHS:
                    raise StopError(
                        f"{MOST_DEATHS} actors died at part {job.key}, the last one for this"
                        f" reason: {_first_line(e)}; is there enough memory? What is done stays."
                    ) from e
                self._begin(job)
                continue
            if isinstance(made, StopError):
                raise made
            self._free.append(actor)
            if (following := next(waiting, None)) is not None:
                self._begin(following)
            yield made

    def _begin(self, job: PartJob) -> None:
        if not self._free:
            self._free.append(self._new())
            self._actors.append(self._free[0])
        actor = self._free.pop()
        self._working[actor.make.remote(*self._task, job)] = (actor, job)


class _Actor:
    """A worker in a process of its own."""

    def __init__(self) -> None:
        self._task: tuple[str, Stage] | None = None
        self._worker: Worker | None = None

    def make(self, name: str, stage: Stage, job: PartJob) -> Made | StopError:
        """Make a part, or say why the stage cannot go on."""
        if self._worker is None or self._task != (name, stage):
            self._task, self._worker = (name, stage), Worker(name, stage)
        try:
            return self._worker.make(job)
        except StopError as e:
            return StopError(str(e))


def _first_line(e: Exception) -> str:
    return str(e).strip().split("\n")[0]


@contextlib.contextmanager
def ray_engine(address: str = "", actors: int = 0) -> Iterator[RayActors]:
    """Start Ray in processes beside this one, or join one that runs.

    Args:
      address: of a Ray that runs, such as "auto" or "HOST:6379"; "": starts one, which ends with
        the block.
      actors: of each stage, at most; 0: as many as there is room for.

    Yields:
      The engine.

    Raises:
      UserError: Ray is not installed, or there is none at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read while it is imported, and by what it starts
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as e:
        raise UserError("--engine=ray needs Ray: pip install 'step1x_jax[curation]'") from e
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address:
        options["address"] = address
    else:
        options |= {"include_dashboard": False, "num_cpus": os.cpu_count() or 1}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise UserError(
            f"Ray could not be joined at {address or 'this machine'} ({_first_line(e)}); see that"
            " it runs there."
        ) from e
    engine = RayActors(ray, actors)
    try:
        yield engine
    finally:
        engine.end()
        ray.shutdown()
