"""Where a run's checkpoints lie, and which of them there are: on a disk and on an object store.

WORKDIR/checkpoints/STEP/         complete with its name; on an object store (gs://) written in
                                  its place and complete with its last object,
                                  commit_success.txt, for which we ask by name
WORKDIR/checkpoints.json          on an object store: what its listings may not tell (yet): the
                                  steps last saved or begun, and those that were damaged
"""

import os

import jax
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import absolute, is_remote
from step1x_jax.json_files import read_json, write_json

FOLDER = "checkpoints"
COMMITTED = "commit_success.txt"  # Orbax's name for it
NOTES = "checkpoints.json"
NOTED = 20  # steps that NOTES holds


def folder_of(workdir: epath.PathLike) -> epath.Path:
    """Of a run's checkpoints; from the root, for Orbax refuses relative paths."""
    if is_remote(workdir) and not os.fspath(workdir).startswith("gs://"):
        raise UserError(
            f"checkpoints can be in gs:// or on a disk, not in {workdir}; mount the bucket."
        )
    return absolute(epath.Path(workdir) / FOLDER)


def steps_in(folder: epath.Path) -> list[int]:
    """The steps that have a checkpoint, newest first."""
    listed = folder.iterdir() if folder.exists() else ()
    steps = {int(path.name) for path in listed if path.name.isdigit()}
    if is_remote(folder):
        steps |= set(_notes(folder)["saved"])
        steps = {step for step in steps if (folder / str(step) / COMMITTED).exists()}
    return sorted(steps, reverse=True)


def _notes(folder: epath.Path) -> dict[str, list[int]]:
    path = folder.parent / NOTES
    return {"saved": [], "damaged": []} | (read_json(path) if path.exists() else {})


def note(folder: epath.Path, what: str, step: int) -> None:
    """Keeps a step's number where it is found by name, before anything is done to its checkpoint.

    Raises:
      UserError: it could not be written.
    """
    if is_remote(folder) and jax.process_index() == 0:
        notes = _notes(folder)
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
    """Makes sure that a damaged checkpoint is not taken for a whole one again."""
    if is_remote(path):  # where many objects cannot be renamed as one
        note(path.parent, "damaged", int(path.name))
        (path / COMMITTED).unlink()
    else:
        path.rename(path.parent / f"{path.name}.damaged")


def any_set_aside(folder: epath.Path) -> bool:
    """Whether a damaged checkpoint was."""
    if is_remote(folder):
        return bool(_notes(folder)["damaged"])
    return any(path.name.endswith(".damaged") for path in folder.iterdir())
