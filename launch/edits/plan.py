"""Plan of launch.edit: the results to make, how and where, and which exist already."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from etils import epath

from launch.edits.rows import Row
from step1x_jax.conditioning.images import MOST_BYTES
from step1x_jax.conditioning.input_files import check_protocol, read_input_file
from step1x_jax.editing.output_files import check_format
from step1x_jax.editing.recipe import File, Recipe, differences, noted_path, read_recipe
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable, is_file, is_remote
from step1x_jax.sampling.noise import check_seed

STEM, SEED = "{stem}", "{seed}"
IN_FOLDER = f"{STEM}-{SEED}.png"
COMPARED = "-compare"  # after the name of a result


@dataclasses.dataclass(frozen=True)
class EditJob:
    """One result to be made."""

    row: Row
    seed: int
    output: epath.Path

    @property
    def compared(self) -> epath.Path:
        """Path of the picture that shows source and result side by side."""
        return self.beside(COMPARED)

    def beside(self, word: str) -> epath.Path:
        """A PNG beside the result, named after it."""
        return self.output.parent / f"{self.output.stem}{word}.png"


class Output:
    """The meaning of --output.

    A name that ends in .png, .jpg or .webp is the file of one result. A folder is one that is
    there, or a name that ends in a slash. A name with {stem} or {seed} is a pattern.
    """

    def __init__(self, given: str):
        """Take a path, with ~ put in."""
        check_protocol(given, "the edited picture")
        self.pattern = given
        if given.endswith("/") or (not is_remote(given) and os.path.isdir(given)):
            self.pattern = os.path.join(given, IN_FOLDER)
        self.many = STEM in self.pattern or SEED in self.pattern
        check_format(self.pattern)

    @property
    def folder(self) -> epath.Path:
        """Where all results are, in it or below."""
        return epath.Path(os.path.dirname(self.pattern.split("{")[0]) or ".")

    def of(self, row: Row, seed: int) -> epath.Path:
        """The place of a result."""
        if row.output is not None:
            name = row.output.replace(SEED, str(seed))
            return self.folder / name
        return epath.Path(self.pattern.replace(SEED, str(seed)).replace(STEM, row.stem))


def plan(rows: Sequence[Row], output: Output, seed: int, num_images: int) -> list[EditJob]:
    """One job for each result, in order.

    Every picture has the same seeds, so that its results do not depend on the others.

    Args:
      rows: what is asked for.
      output: where.
      seed: of the first result of a row that has none of its own.
      num_images: results of each row, of this and the next seeds.

    Raises:
      UserError: a seed has over 64 bits, two results would have one name, or there are several for
        the name of one file.
    """
    jobs = []
    for row in rows:
        first = check_seed(seed if row.seed is None else row.seed, num_images)
        jobs += [EditJob(row, s, output.of(row, s)) for s in range(first, first + num_images)]
    if len(jobs) > 1 and not output.many:
        raise UserError(
            f"--output={output.pattern} is one file, and there are {len(jobs)} results; give a"
            " folder, as in --output=results/."
        )
    taken: set[str] = set()
    for job in jobs:
        name = os.fspath(job.output)
        if name in taken:
            raise UserError(
                f"two results would be {name}; name them in a list of edits (--edits, output), or"
                f" write {SEED} in the name if they differ in the seed."
            )
        taken.add(name)
    return jobs


def check_places(jobs: Iterable[EditJob], files: Iterable[str]) -> None:
    """Raise UserError for results that cannot be written, or that would replace what is read.

    Args:
      jobs: all.
      files: that are read: pictures and masks.
    """
    read = {_identity(file) for file in files}
    folders = set()
    for job in jobs:
        check_format(job.output)
        if not is_remote(job.output) and job.output.is_dir():
            raise UserError(f"--output={job.output} is a folder; give another name.")
        if _identity(os.fspath(job.output)) in read:
            raise UserError(
                f"--output={job.output} is the picture to edit, which would be lost; give another"
                " name."
            )
        if job.output.parent not in folders:
            folders.add(job.output.parent)
            check_writable(job.output)


def _identity(path: str) -> Any:
    """The same for all names of a file."""
    if is_remote(path):
        return path
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # it is not there
        return os.path.abspath(path)
    return status.st_dev, status.st_ino


def still_to_make(
    jobs: Sequence[EditJob], recipe_of: Callable[[EditJob], Recipe], *, overwrite: bool
) -> list[EditJob]:
    """The results that are not there yet, as they would be made now.

    Args:
      jobs: all.
      recipe_of: how a result would be made now; UserError if its picture cannot be read: then it
        has to be tried.
      overwrite: whether what was made otherwise is made again.

    Raises:
      UserError: some were made otherwise, and are not to be overwritten.
    """
    missing, others = [], []
    for job in jobs:
        different = _what_differs(job, recipe_of) if is_file(job.output) else None
        if different != "":
            missing.append(job)
        if different:
            others.append(f"{job.output}: {different}")
    if others and not overwrite:
        raise UserError(
            f"{len(others)} of {len(jobs)} results are there, but made otherwise ({others[0]});"
            " give another --output, or --overwrite to replace them."
        )
    return missing


def _what_differs(job: EditJob, recipe_of: Callable[[EditJob], Recipe]) -> str | None:
    """Return in words how they differ; "": not at all; None: unknown."""
    try:
        wanted = recipe_of(job)
    except UserError:
        return None
    try:
        return ", ".join(differences(read_recipe(os.fspath(job.output)), wanted))
    except UserError as e:
        return str(e).rstrip(".")


def noted_file(path: str, what: str) -> File:
    """A file that is read for an edit."""
    data = read_input_file(path, what, MOST_BYTES)
    return File(noted_path(path), hashlib.sha256(data).hexdigest())


def recipe_of(job: EditJob, common: Recipe) -> Recipe:
    """How a result is made; UserError if its picture or mask cannot be read."""
    row = job.row
    assert row.instruction is not None
    return dataclasses.replace(
        common,
        image=noted_file(row.image, "a picture"),
        instruction=row.instruction,
        negative=row.negative or "",
        seed=str(job.seed),
        steps=common.steps if row.steps is None else row.steps,
        guidance=common.guidance if row.guidance is None else row.guidance,
        mask=noted_file(row.mask, "a mask") if row.mask else None,
    )
