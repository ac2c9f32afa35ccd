"""Makes the results of launch.edit, saves them, and reports what became of each."""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image
from tqdm import tqdm

from launch.edits.plan import EditJob, recipe_of
from launch.edits.report import EditReport, Line
from launch.shared.exit_codes import SOME_FAILED
from step1x_jax.conditioning.images import open_image
from step1x_jax.conditioning.picture_row import picture_row
from step1x_jax.data.paths import make_printable
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.masks import read_mask
from step1x_jax.editing.output_files import save_picture
from step1x_jax.editing.progress import Step
from step1x_jax.editing.recipe import Recipe, to_note
from step1x_jax.editing.registration import register
from step1x_jax.editing.requests import OUTPUT_SIZES
from step1x_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Extras:
    """Inputs and outputs of an edit besides its recipe.

    Attributes:
      compare: source and result are saved side by side, too.
      previews: are saved after so many steps each; 0: none.
      noise: path of the file with the noise.
    """

    compare: bool
    previews: int
    noise: str | None


def make_all(
    editor: Editor,
    jobs: Sequence[EditJob],
    common: Recipe,
    extras: Extras,
    report: EditReport | None,
) -> int:
    """Make results one after another, so that none depends on what is made with it.

    Args:
      editor: makes them.
      jobs: what is to be made.
      common: what they have in common.
      extras: see there.
      report: where each is noted; None: what goes wrong with one is raised.

    Returns:
      The exit code.
    """
    counts = [job.row.steps or common.steps for job in jobs]
    failed = done = 0
    with tqdm(total=sum(counts), desc="editing", unit="step") as bar:
        for number, (job, steps) in enumerate(zip(jobs, counts, strict=True), 1):
            if len(jobs) > 1:
                bar.set_description(f"editing {number} of {len(jobs)}")
            about = Line(
                output=make_printable(os.path.relpath(job.output, report.folder) if report else ""),
                image=make_printable(job.row.image),
                seed=job.seed,
            )
            try:
                start = time.monotonic()
                source, edited = _make(editor, job, common, extras, bar)
                if report is not None:
                    seconds = round(time.monotonic() - start, 2)
                    drift = _drift(job, source, edited)
                    about = dataclasses.replace(about, seconds=seconds, **drift)
            except UserError as e:
                if report is None:
                    raise
                failed += 1
                about = dataclasses.replace(about, error=str(e))
                bar.write(f"{make_printable(str(job.output))} was not made: {e}", file=sys.stderr)
            done += steps
            bar.update(done - bar.n)
            if report is not None:
                report.add(about)
    if report is not None and failed:
        print(f"{failed} of {len(jobs)} could not be made, see {report.path}", file=sys.stderr)
        return SOME_FAILED
    return 0


def _make(
    editor: Editor, job: EditJob, common: Recipe, extras: Extras, bar: tqdm
) -> tuple[Image.Image, Image.Image]:
    """Make and save one result, itself last: if it is there, so is all that belongs to it.

    Returns:
      The source and the result.
    """
    recipe = recipe_of(job, common)
    source = open_image(job.row.image)

    def on_step(step: Step) -> None:
        bar.update()
        for preview in step.previews or ():
            save_picture(job.beside(f"-step{step.number:02}"), preview)

    (edited,) = editor.edit(
        source,
        recipe.instruction,
        negative=recipe.negative,
        steps=recipe.steps,
        guidance_scale=recipe.guidance,
        seed=job.seed,
        size=recipe.size,
        truncate=recipe.truncate,
        speed=recipe.speed,
        noise=extras.noise,
        mask=job.row.mask,
        keep_unchanged=recipe.keep_unchanged,
        align=recipe.align,
        on_step=on_step,
        previews=extras.previews,
        output_size=_pair(recipe.output_size),
    )
    if extras.compare:
        save_picture(job.compared, picture_row([source, edited], recipe.instruction))
    save_picture(job.output, edited, to_note(recipe))
    bar.write(
        f"{make_printable(str(job.output))}: {edited.width} x {edited.height},"
        f" {recipe.steps} steps, seed {job.seed}"
    )
    return source, edited


def _drift(job: EditJob, source: Image.Image, edited: Image.Image) -> dict[str, Any]:
    """Return shift and colour drift of a result against its source, as fields of a Line."""
    if edited.size != source.size:
        return {}
    mask = read_mask(job.row.mask, source.size, "the mask") if job.row.mask else None
    found = register(source, edited, mask)
    if not found.measured:
        return {}
    r, g, b = (round(x, 2) for x in found.colour)
    return {"shift": (round(found.dx, 2), round(found.dy, 2)), "colour": (r, g, b)}


def _pair(size: str) -> str | tuple[int, int]:
    """An output_size as `Editor.edit` takes it."""
    if size in OUTPUT_SIZES:
        return size
    width, height = map(int, size.split("x"))
    return width, height
