"""Where a run's checkpoints are, and which exist, on a disk and on an object store.

WORKDIR/checkpoints/STEP/         has this name only once it is complete; on an object store (gs://)
                                  it is written in place and complete once its last object,
                                  commit_success.txt, exists, which we look up by name
WORKDIR/checkpoints.json          only on an object store, whose listings may lag: the steps last
                                  saved or begun, and the damaged ones
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator

import jax
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import absolute, find, is_remote, reason
from step1x_jax.json_files import build, read_json, write_json

FOLDER = "checkpoints"
COMMITTED = "commit_success.txt"  # Orbax's name for it
NOTES = "checkpoints.json"
NOTED = 20  # steps per list in NOTES
DAMAGED = ".damaged"


@dataclasses.dataclass
class Notes:
    """The contents of NOTES.

    Attributes:
      saved: steps whose checkpoints were saved or begun.
      damaged: steps whose checkpoints were damaged.
    """

    saved: list[int] = dataclasses.field(default_factory=list)
    damaged: list[int] = dataclasses.field(default_factory=list)


def is_run(path: epath.PathLike) -> bool:
    """Return whether a path is a run's folder, or weights alone in that format."""
    return (epath.Path(path) / FOLDER).is_dir()


def no_average_error(path: epath.PathLike) -> UserError:
    """Return the error for a moving average requested of something that is not a run."""
    return UserError(
        f"{path} is not a run of launch.train, and only runs have a moving average; leave --ema"
        " out."
    )


def checkpoints_folder(workdir: epath.PathLike) -> epath.Path:
    """Return the folder of a run's checkpoints as an absolute path, which Orbax requires.

    Raises:
      UserError: Orbax or tensorstore would resolve the path differently.
    """
    if is_remote(workdir) and not os.fspath(workdir).startswith("gs://"):
        raise UserError(
            f"checkpoints can be in gs:// or on a disk, not in {workdir}; mount the bucket."
        )
    folder = absolute(epath.Path(workdir) / FOLDER)
    text = os.fspath(folder)
    if not is_remote(folder) and ("\\" in text or ":/" in text or not _is_unicode(text)):
        raise UserError(
            f"checkpoints cannot be in {os.fspath(workdir)!a}: tensorstore, which reads and"
            " writes them, accepts no backslash, no colon at the end of a folder's name and only"
            " UTF-8 in a path; use another name."
        )
    return folder


def check_can_save(folder: epath.PathLike) -> None:
    """Raise UserError if Orbax could not read checkpoints that it writes below a folder.

    It takes the path for a glob pattern when it merges what the processes wrote.
    """
    text = os.fspath(folder)
    if not is_remote(text) and re.search(r"[*?]|\[.*\]", text):
        raise UserError(
            f"{text} has one of the characters * ? [ ] in its path, and Orbax could not read"
            " checkpoints written there; use another name."
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def list_steps(folder: epath.Path) -> list[int]:
    """Return the steps that have a checkpoint, newest first.

    Raises:
      UserError: the folder cannot be read.
    """
    with _read_errors(folder):
        listed = [path.name for path in folder.iterdir()] if folder.exists() else []
        # only ASCII digits, and no leading zeros
        steps = {int(name) for name in listed if re.fullmatch(r"0|[1-9][0-9]{0,17}", name)}
        if is_remote(folder):
            steps |= set(_notes(folder).saved)
            steps = {step for step in steps if (folder / str(step) / COMMITTED).exists()}
    return sorted(steps, reverse=True)


@contextlib.contextmanager
def _read_errors(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UserError(
            f"{folder} cannot be read ({reason(e)}); check its permissions, disk and network."
        ) from e


def _notes(folder: epath.Path) -> Notes:
    path = folder.parent / NOTES
    return build(Notes, read_json(path), str(path)) if path.exists() else Notes()


def record_step(folder: epath.Path, field: str, step: int) -> None:
    """Records a step where it is found by name, before anything is done to its checkpoint.

    Only on an object store, and by process 0.

    Args:
      folder: of the checkpoints.
      field: a field of `Notes`.
      step: the number.

    Raises:
      UserError: NOTES could not be written.
    """
    if is_remote(folder) and jax.process_index() == 0:
        notes = dataclasses.asdict(_notes(folder))
        others = [other for other in notes[field] if other != step]
        write_json(folder.parent / NOTES, notes | {field: [*others, step][-NOTED:]})


def check_listed(folder: epath.Path, file: str) -> None:
    """Refuse a folder that the object store does not list yet: Orbax would take it for damaged.

    Args:
      folder: the folder.
      file: name of a file in it, which can be looked up.

    Raises:
      UserError: the folder is not listed, but the file exists.
    """
    if is_remote(folder) and not folder.is_dir() and (folder / file).exists():
        raise UserError(
            f"{folder} exists, but the object store does not list it yet; run the command again"
            " in a minute."
        )


def set_aside(path: epath.Path) -> None:
    """Make sure that a damaged checkpoint is not used again: rename it, or on an object store
         uncommits it.

    Raises:
      UserError: it could not be renamed.
    """
    try:
        if is_remote(path):  # an object store cannot rename a folder at once
            record_step(path.parent, "damaged", int(path.name))
            (path / COMMITTED).unlink()
            return
        names = (path.name + DAMAGED + again for again in ("", *(f".{n}" for n in range(2, 1000))))
        free = (name for name in names if not os.path.lexists(path.parent / name))
        path.rename(path.parent / next(free))
    except OSError as e:
        raise UserError(
            f"{path} is damaged and cannot be set aside ({reason(e)}); rename it, so that the"
            " checkpoint before it is used."
        ) from e


def any_set_aside(folder: epath.Path) -> bool:
    """Return whether a damaged checkpoint was set aside."""
    if is_remote(folder):
        return bool(_notes(folder).damaged)
    return bool(find(folder, f"*{DAMAGED}*"))
