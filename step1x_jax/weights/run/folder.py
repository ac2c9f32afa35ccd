"""Where a run's checkpoints lie, and which of them there are: on a disk and on an object store.

WORKDIR/checkpoints/STEP/         complete with its name; on an object store (gs://) written in
                                  its place and complete with its last object,
                                  commit_success.txt, for which we ask by name
WORKDIR/checkpoints.json          on an object store: what its listings may not tell (yet): the
                                  steps last saved or begun, and those that were damaged
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
NOTED = 20  # steps that NOTES holds
DAMAGED = ".damaged"


@dataclasses.dataclass
class Notes:
    """What NOTES holds: steps that were saved or begun, and those that were damaged."""

    saved: list[int] = dataclasses.field(default_factory=list)
    damaged: list[int] = dataclasses.field(default_factory=list)


def is_run(path: epath.PathLike) -> bool:
    """Whether a path is the folder of a run, or one of weights in the form of a run's."""
    return (epath.Path(path) / FOLDER).is_dir()


def no_average(path: epath.PathLike) -> UserError:
    """What to say where a moving average is asked for of something that is no run."""
    return UserError(
        f"{path} is no run of launch.train, and only runs have a moving average; leave --ema out."
    )


def folder_of(workdir: epath.PathLike) -> epath.Path:
    """Of a run's checkpoints; from the root, for Orbax refuses relative paths.

    Raises:
      UserError: Orbax or tensorstore would look for them in another place.
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
            " writes them, takes no backslash, no colon at the end of a folder's name and nothing"
            " but UTF-8 in a path; use another name."
        )
    return folder


def check_can_save(folder: epath.PathLike) -> None:
    """Raises UserError if checkpoints that Orbax writes below a folder could not be read again.

    It takes the path for a pattern when it joins what the processes wrote.
    """
    text = os.fspath(folder)
    if not is_remote(text) and re.search(r"[*?]|\[.*\]", text):
        raise UserError(
            f"{text} has one of the characters * ? [ ] in its path, with which Orbax writes"
            " checkpoints that cannot be read; use another name."
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def steps_in(folder: epath.Path) -> list[int]:
    """The steps that have a checkpoint, newest first.

    Raises:
      UserError: the folder cannot be read.
    """
    with _reading(folder):
        listed = [path.name for path in folder.iterdir()] if folder.exists() else []
        # not the digits of other scripts, and no name that is not the number's own
        steps = {int(name) for name in listed if re.fullmatch(r"0|[1-9][0-9]{0,17}", name)}
        if is_remote(folder):
            steps |= set(_notes(folder).saved)
            steps = {step for step in steps if (folder / str(step) / COMMITTED).exists()}
    return sorted(steps, reverse=True)


@contextlib.contextmanager
def _reading(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UserError(
            f"{folder} cannot be read ({reason(e)}); check its rights, disk and network."
        ) from e


def _notes(folder: epath.Path) -> Notes:
    path = folder.parent / NOTES
    return build(Notes, read_json(path), str(path)) if path.exists() else Notes()


def note(folder: epath.Path, what: str, step: int) -> None:
    """Keeps a step's number where it is found by name, before anything is done to its checkpoint.

    Args:
      folder: of the checkpoints.
      what: a field of `Notes`.
      step: the number.

    Raises:
      UserError: it could not be written.
    """
    if is_remote(folder) and jax.process_index() == 0:
        notes = dataclasses.asdict(_notes(folder))
        others = [other for other in notes[what] if other != step]
        write_json(folder.parent / NOTES, notes | {what: [*others, step][-NOTED:]})


def check_listed(folder: epath.Path, file: str) -> None:
    """Orbax looks for folders: one that is not listed yet would be taken for damaged.

    Raises:
      UserError: the folder is not there, but a file in it is.
    """
    if is_remote(folder) and not folder.is_dir() and (folder / file).exists():
        raise UserError(
            f"{folder} is there, but the object store does not list it yet; run the command again"
            " in a minute."
        )


def set_aside(path: epath.Path) -> None:
    """Makes sure that a damaged checkpoint is not taken for a whole one again.

    Raises:
      UserError: it could not be renamed.
    """
    try:
        if is_remote(path):  # where many objects cannot be renamed as one
            note(path.parent, "damaged", int(path.name))
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
    """Whether a damaged checkpoint was."""
    if is_remote(folder):
        return bool(_notes(folder).damaged)
    return bool(find(folder, f"*{DAMAGED}*"))
