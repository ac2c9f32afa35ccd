"""Where the columns of a part are: in the files of the stages before, each with its own columns."""

import dataclasses
from collections.abc import Mapping, Sequence

from step1x_jax.curation.engine.columns import Columns, digest_of
from step1x_jax.curation.engine.part_files import PartFile
from step1x_jax.curation.engine.stage import Stage
from step1x_jax.curation.engine.workdir import Part, Workdir


@dataclasses.dataclass(frozen=True)
class ColumnLayer:
    """A file with some of the columns of a part.

    Attributes:
      path: of the file.
      columns: to read from it.
      many: whether its rows were made of others: further columns are found by their parents' ids.
    """

    path: str
    columns: Columns
    many: bool


@dataclasses.dataclass(frozen=True)
class _Done:
    """A stage of which all parts are there."""

    name: str
    columns: Columns
    many: bool
    files: Mapping[str, PartFile]  # by key


class History:
    """The stages that are done, in order."""

    def __init__(self, workdir: Workdir):
        self._workdir = workdir
        self._stages: list[_Done] = []

    def add(self, name: str, stage: Stage, parts: Sequence[Part]) -> None:
        """Add a stage that is done.

        Args:
          name: of it.
          stage: itself.
          parts: all that it made.
        """
        files = {file.key: file for part in parts for file in part.files}
        done = _Done(name, stage.writes, stage.many, dict(sorted(files.items())))
        self._stages.append(done)

    @property
    def files(self) -> Mapping[str, PartFile]:
        """The files of the latest stage by key, in order."""
        return self._stages[-1].files

    @property
    def columns(self) -> Columns:
        """All that there are."""
        return {name: kind for stage in self._stages for name, kind in stage.columns.items()}

    def layers(self, key: str, columns: Columns) -> tuple[ColumnLayer, ...]:
        """The files with the columns of a part of the latest stage, the latest first.

        Args:
          key: of the part.
          columns: to find; each is where it was written last, those that nobody writes nowhere.
        """
        return tuple(
            ColumnLayer(str(self._workdir.stage(done.name) / file.file), own, done.many)
            for done, file, own in self._found(key, columns)
        )

    def fingerprint(self, key: str, columns: Columns) -> str:
        """A digest of the columns of a part, and of what became of its rows before."""
        facts = [self.files[key].state]
        for _, file, own in self._found(key, columns):
            facts += [f"{name} {file.columns[name]}" for name in own]
        return digest_of(facts)

    def _found(self, key: str, columns: Columns) -> list[tuple[_Done, PartFile, Columns]]:
        latest = len(self._stages) - 1
        place: dict[str, int] = {}  # of each column: the number of the stage that wrote it last
        for number, stage in enumerate(self._stages):
            place |= {name: number for name in columns if name in stage.columns}
        oldest = min(place.values(), default=latest)
        found: list[tuple[_Done, PartFile, Columns]] = []
        for number in range(latest, oldest - 1, -1):
            stage = self._stages[number]
            own = {name: columns[name] for name in columns if place.get(name) == number}
            if own or stage.many or number == latest:
                found.append((stage, _file_of(stage.files, key), own))
        return found


def _file_of(files: Mapping[str, PartFile], key: str) -> PartFile:
    """The file that a part's rows were made from: KEY-000-001 of KEY-000, or of KEY."""
    while key not in files:
        key = key[: key.rindex("-")]
    return files[key]
