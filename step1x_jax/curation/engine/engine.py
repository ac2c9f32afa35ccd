"""What an engine is, and the one that works in this process."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from step1x_jax.curation.engine.stage import Stage
from step1x_jax.curation.engine.worker import Made, PartJob, Worker


class Engine(Protocol):
    """Makes parts, somewhere."""

    def run(self, name: str, stage: Stage, jobs: Iterable[PartJob]) -> Iterator[Made]:
        """Make the parts of a stage.

        Args:
          name: of the stage.
          stage: what to do.
          jobs: any number; taken as they are needed.

        Yields:
          Parts as they are made, in any order.

        Raises:
          StopError: the stage cannot go on.
        """


class Inline:
    """One worker, in this process."""

    def run(self, name: str, stage: Stage, jobs: Iterable[PartJob]) -> Iterator[Made]:
        """See `Engine`."""
        worker = Worker(name, stage)
        for job in jobs:
            yield worker.make(job)
