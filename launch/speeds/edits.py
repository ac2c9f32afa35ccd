"""The edits that speeds are tried on, and how far their results are from the exact ones."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from launch.edits.rows import Row, is_folder, read_rows
from step1x_jax.conditioning.images import PIXELS_PER_LATENT, image_size, open_image
from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError
from step1x_jax.files import user_path
from step1x_jax.models.embeddings import PATCH
from step1x_jax.quickstart.held_out import read_held_out
from step1x_jax.quickstart.report import psnr
from step1x_jax.quickstart.report_picture import choose_examples
from step1x_jax.sampling.plan import EXACT, SamplingPlan
from step1x_jax.sampling.schedule import timesteps

MOST = 1000  # edits


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """How all edits are sampled, besides their speed; of the command, or the model's."""

    steps: int
    guidance: float
    truncate: float
    size: int


@dataclasses.dataclass(frozen=True)
class SpeedError:
    """A plan on all edits. PSNRs are in dB, at most 100, of pictures.

    Attributes:
      share_of_flops: of the exact sampler's evaluations of the model, on average.
      psnr_mean: to the exact results.
      psnr_worst: of the edit that is furthest from its exact result.
      true_edit_loss_worst: by how much the exact result is nearer to the true edit, of the edit
        where that is most; None: no edit has a true one.
      seconds: that the median edit took.
    """

    share_of_flops: float
    psnr_mean: float
    psnr_worst: float
    true_edit_loss_worst: float | None
    seconds: float


def read_edits(path: str, root: str | None = None) -> list[Row]:
    """The edits of a list, with seeds: those of the rows, else each has its own.

    Args:
      path: a list as of launch.edit; or the folder of lists that launch.curate export made with
        configs/curate_quickstart.py: then one held-out edit of each kind, with its true edit.
      root: see `read_rows`.

    Raises:
      UserError: see `read_rows`; or a row has settings that are for all, or no instruction.
    """
    place = user_path(path)
    if is_folder(place):
        held_out = read_held_out(place)
        chosen = [held_out[i] for i in choose_examples(held_out, chinese=True)]
        rows = [Row(e.source, e.instruction, target=e.target) for e in chosen]
    else:
        rows = read_rows(path, root)
    if len(rows) > MOST:
        raise UserError(f"{path} has {len(rows)} edits; give at most {MOST}.")
    for number, row in enumerate(rows, 1):
        where = f"{path}, edit {number} ({row.image})"
        if not row.instruction or not row.instruction.strip():
            raise UserError(f"{where} has no instruction; say what to do to the picture.")
        check_instruction(row.instruction)
        for name, flag in (("steps", "steps"), ("guidance", "guidance_scale")):
            if getattr(row, name) is not None:
                raise UserError(f"{where} has its own {name}; give --{flag}, which is for all.")
    return [
        row if row.seed is not None else dataclasses.replace(row, seed=number)
        for number, row in enumerate(rows)
    ]


def given(row: Row, settings: EditSettings) -> dict[str, Any]:
    """The arguments that `Editor.edit` and `Editor.record` take alike."""
    return {
        "negative": row.negative or "",
        "steps": settings.steps,
        "guidance_scale": settings.guidance,
        "truncate": settings.truncate,
        "size": settings.size,
        "seed": row.seed or 0,
        "mask": row.mask,
    }


def compare(
    editor: Editor,
    rows: Sequence[Row],
    settings: EditSettings,
    plans: Mapping[str, SamplingPlan],
    tell: Callable[[], object] = lambda: None,
) -> dict[str, SpeedError]:
    """Edit with each plan, and exactly.

    Args:
      editor: makes the edits.
      rows: the edits.
      settings: of all.
      plans: by name, for as many steps as the settings say.
      tell: is called after each edit, of (len(plans) + 1) * len(rows).

    Returns:
      What came of "exact" and of each plan, by name.

    Raises:
      UserError: see `Editor.edit`; or a true edit cannot be read.
    """
    sources = [open_image(row.image) for row in rows]
    exact: list[Image.Image] = []
    before: list[float | None] = []
    found = {}
    every: dict[str, SamplingPlan | None] = {EXACT: None, **plans}
    for name, plan in every.items():
        made, taken = [], []
        for row in rows:
            start = time.perf_counter()
            made.append(_edit(editor, row, settings, plan))
            taken.append(time.perf_counter() - start)
            tell()
        true = [_to_true_edit(picture, row) for picture, row in zip(made, rows, strict=True)]
        exact, before = exact or made, before or true
        near = [float(psnr(np.asarray(a), np.asarray(b))) for a, b in zip(made, exact, strict=True)]
        lost = [b - a for a, b in zip(true, before, strict=True) if a is not None and b is not None]
        shares = [
            1.0 if plan is None else _fitted(plan, source, editor, settings).share_of_flops
            for source in sources
        ]
        found[name] = SpeedError(
            float(np.mean(shares)),
            float(np.mean(near)),
            min(near),
            max(lost) if lost else None,
            float(np.median(taken)),
        )
    return found


def _edit(
    editor: Editor, row: Row, settings: EditSettings, plan: SamplingPlan | None
) -> Image.Image:
    """A result at the size at which it is edited; of no plan, the exact one."""
    (edited,) = editor.edit(
        row.image,
        row.instruction or "",
        speed=EXACT if plan is None else plan,
        output_size="edited",
        **given(row, settings),
    )
    return edited


def _to_true_edit(picture: Image.Image, row: Row) -> float | None:
    """PSNR to the true edit, at the result's size."""
    if row.target is None:
        return None
    target = open_image(row.target).resize(picture.size, Image.Resampling.LANCZOS)
    return float(psnr(np.asarray(picture), np.asarray(target)))


def _fitted(
    plan: SamplingPlan, source: Image.Image, editor: Editor, settings: EditSettings
) -> SamplingPlan:
    """The plan as it is sampled for a picture."""
    width, height = image_size(*source.size, settings.size)
    tokens = width * height // (PIXELS_PER_LATENT * PATCH) ** 2
    times = timesteps(settings.steps, tokens, editor.sampling.shift)
    return plan.fitted(times, settings.truncate)


def table(found: Mapping[str, SpeedError]) -> str:
    """The figures in columns."""
    lines = [f"{'':<30} share of FLOPs   PSNR mean   worst   true edit, worst loss   seconds"]
    for name, e in found.items():
        lost = "" if e.true_edit_loss_worst is None else f"{e.true_edit_loss_worst:.2f} dB"
        mean, worst = (_decibels(value) for value in (e.psnr_mean, e.psnr_worst))
        figures = f"{e.share_of_flops:>14.2f} {mean:>11} {worst:>7} {lost:>23} {e.seconds:>9.2f}"
        lines.append(f"{name:<30} {figures}")
    return "\n".join(lines)


def _decibels(value: float) -> str:
    return "equal" if value >= 100 else f"{value:.1f}"
