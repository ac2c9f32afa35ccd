"""The folder of a run: which parts of which stage are there, and how one gets its name.

    WORKDIR/config.json                       the settings of the latest run
    WORKDIR/manifest.json                     what the whole consists of, when all is done
    WORKDIR/stages/STAGE/part-KEY.json        a part that is done: its fingerprint and its files
    WORKDIR/stages/STAGE/part-KEY-HASH.parquet
    WORKDIR/replies/STAGE/KEY/                what a stage does not want to ask for twice
    WORKDIR/.driver.lock

A part is there when its part-KEY.json is there, which is written last.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import msgspec
from etils import epath

from step1x_jax.bounds import Count, NotNegative
from step1x_jax.curation.engine.part_files import PartFile, Written, remove, write_synced
from step1x_jax.errors import UserError
from step1x_jax.files import check_local, exclusive, find, reason
from step1x_jax.json_files import as_json, build, read_json

STAGES, REPLIES, MANIFEST, CONFIG = "stages", "replies", "manifest.json", "config.json"
LOCK = ".driver.lock"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # of a stage
_KEY = r"\d{6,}(?:-\d{3,})*"
_PART = re.compile(rf"part-({_KEY})\.json")
_FILE = re.compile(rf"part-{_KEY}-[0-9a-f]{{12}}\.parquet")
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp")


@dataclasses.dataclass(frozen=True)
class Part:
    """What became of one unit of work: a part that a stage read.

    Attributes:
      key: of the part that was read.
      stage: fingerprint of the stage.
      fingerprint: of the stage and of all that it read.
      files: what was made of it.
      rejected: how many rows the stage left out, by reason.
      failed: how many it could not work on, by kind of error.
      examples: a message of each of these kinds.
      worked: how many rows it worked on, whatever became of them.
      kept: of these, those that were made before of the same input, and were not made again.
      calls: of models behind an address, and the like, that it counted.
      seconds: that this took.
    """

    key: str
    stage: str
    fingerprint: str
    files: Annotated[tuple[PartFile, ...], msgspec.Meta(min_length=1)]
    rejected: Mapping[str, Count]
    failed: Mapping[str, Count]
    examples: Mapping[str, str]
    worked: Count
    kept: Count
    calls: Count
    seconds: NotNegative

    @property
    def failures(self) -> int:
        """How many rows failed."""
        return sum(self.failed.values())


class Workdir:
    """The folder of a run."""

    def __init__(self, path: epath.PathLike):
        """Make nothing.

        Raises:
          UserError: it is on an object store, where nothing can be renamed.
        """
        check_local(path)
        self.path = epath.Path(path)

    def stage(self, name: str) -> epath.Path:
        """The folder of a stage."""
        return self.path / STAGES / name

    def replies(self, name: str) -> epath.Path:
        """Where a stage keeps what it does not want to ask for twice."""
        return self.path / REPLIES / name

    @contextlib.contextmanager
    def driving(self) -> Iterator[None]:
        """Let no second process work here; leave no file under a temporary name.

        Raises:
          UserError: another process works here.
        """
        message = f"another launch.curate works in {self.path}; wait for it, or stop it first."
        with exclusive(self.path / LOCK, message):
            try:
                yield
            finally:
                found = [path for one in find(self.path / STAGES, "*") for path in find(one, ".*")]
                remove([str(path) for path in found if _TEMPORARY.fullmatch(path.name)])

    @property
    def driven(self) -> bool:
        """Whether a process works here now."""
        if not (self.path / LOCK).exists():
            return False
        try:
            with exclusive(self.path / LOCK, "held"):
                return False
        except UserError:
            return True

    def parts(self, name: str) -> dict[str, Part]:
        """The parts of a stage that are there, by the key of what was read; in order.

        Raises:
          UserError: one cannot be read, or is not as it was written.
        """
        parts = {}
        for path in find(self.stage(name), "part-*.json"):
            match = _PART.fullmatch(path.name)
            if match is None:
                continue
            part = build(Part, read_json(path), str(path))
            if part.key != match[1] or not all(map(_in_place, part.files)):
                raise UserError(f"{path} was changed; remove it, then run this again.")
            if all(self._is_there(name, file) for file in part.files):
                parts[part.key] = part
        return dict(sorted(parts.items()))

    def _is_there(self, name: str, file: PartFile) -> bool:
        try:
            return os.stat(self.stage(name) / file.file).st_size == file.bytes
        except FileNotFoundError:
            return False

    def commit(self, name: str, part: Part, written: Sequence[Written]) -> None:
        """Give a part its name: after this it is there, whatever happens; before, it is not.

        Args:
          name: of the stage.
          part: to be there.
          written: its files.

        Raises:
          StopError: the disk is full.
        """
        folder = self.stage(name)
        text = json.dumps(as_json(part), indent=1, ensure_ascii=False, allow_nan=False)
        entry = f"part-{part.key}.json"
        for one in written:
            os.replace(one.temporary, folder / one.part.file)
        sync_folder(folder)
        os.replace(write_synced(str(folder), entry, f"{text}\n".encode()), folder / entry)
        sync_folder(folder)

    def sweep(self, name: str, keys: Sequence[str]) -> None:
        """Remove files of a stage that belong to no part, and parts that should not be there.

        Args:
          name: of the stage, which is done.
          keys: of all the parts that there should be.
        """
        folder = self.stage(name)
        parts = self.parts(name)
        for key in set(parts) - set(keys):
            del parts[key]
            remove([str(folder / f"part-{key}.json")])
        used = {file.file for part in parts.values() for file in part.files}
        for path in find(folder, "*"):
            unused = _FILE.fullmatch(path.name) and path.name not in used
            if unused or _TEMPORARY.fullmatch(path.name):
                remove([str(path)])

    def make_stage(self, name: str) -> None:
        """Make the folder of a stage.

        Raises:
          UserError: it cannot be made.
        """
        folder = self.stage(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(f"{folder} cannot be made ({reason(e)}); give another place.") from e


def _in_place(file: PartFile) -> bool:
    """Whether a name is one that is given to part files, which no path out of the folder is."""
    return _FILE.fullmatch(file.file) is not None


def sync_folder(folder: epath.PathLike) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
