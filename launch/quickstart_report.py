"""Edits the quickstart's held-out photographs and says how well.

python -m launch.quickstart_report --workdir=runs/quickstart/train \
    --pictures=runs/quickstart/pictures --output=runs/quickstart

Prints a table; writes report.json and report.png (launch/guides/quickstart.md explains them).
"""

import json
import time

import numpy as np
from absl import flags
from etils import epath
from PIL import Image
from tqdm import tqdm

from launch.command import run
from step1x_jax.conditioning.images import open_image
from step1x_jax.editing.editor import Editor
from step1x_jax.files import replacing
from step1x_jax.quickstart import report, report_picture
from step1x_jax.quickstart.dataset import read_held_out
from step1x_jax.training.metrics import read_metrics

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run of launch.train; or quickstart, the model that ships.", required=True
)
_PICTURES = flags.DEFINE_string(
    "pictures", None, "What launch.quickstart_data made.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the report.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise: edit i has seed + i.")
_STARTED = flags.DEFINE_float(
    "started", None, "When the first step started (date +%s), for the report's seconds."
)

BATCH = 8  # pictures edited at a time


def main() -> None:
    """Edits, scores, writes."""
    started = time.time() if _STARTED.value is None else _STARTED.value
    rows = read_held_out(_PICTURES.value)
    sources = [open_image(row["source"]) for row in rows]
    targets = [open_image(row["target"]) for row in rows]
    editor = Editor.load(_WORKDIR.value)
    edited, reconstructed = _edit(editor, rows, sources, targets)

    before, after, ours = _stack(sources), _stack(targets), _stack(edited)
    scores = report.score(rows, before, after, ours, _stack(reconstructed))
    gain = report.mean_gain(scores)
    output = epath.Path(_OUTPUT.value)
    with replacing(output / "report.png") as temporary, temporary.open("wb") as file:
        title = f"Photographs that no stage of training has seen: {gain:+.1f} dB on average"
        curve = read_metrics(_WORKDIR.value)
        missing = report_picture.draw(file, rows, before, after, ours, curve, title)
    seconds = time.time() - started
    with replacing(output / "report.json") as temporary:
        content = report.to_json(scores, round(seconds, 1))
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    print(report.table(scores))
    print("PSNR to the true edit in dB; gain, photo-blind and ceiling: above the untouched source.")
    if missing:
        print(f"({missing})")
    print(f"mean gain {gain:+.2f} dB; {seconds:.0f} s")
    print(f"{output / 'report.json'}, {output / 'report.png'}")


def _edit(
    editor: Editor,
    rows: list[dict[str, str]],
    sources: list[Image.Image],
    targets: list[Image.Image],
) -> tuple[list[Image.Image], list[Image.Image]]:
    """The model's edits of the sources, and the true edits through the autoencoder."""
    edited: list[Image.Image] = []
    reconstructed: list[Image.Image] = []
    for start in tqdm(range(0, len(rows), BATCH), desc="editing", unit="batch"):
        part = slice(start, start + BATCH)
        instructions = [row["instruction"] for row in rows[part]]
        edited += editor.edit(sources[part], instructions, seed=_SEED.value + start)
        reconstructed += editor.decode(np.stack([editor.encode(x) for x in targets[part]]))
    return edited, reconstructed


def _stack(images: list[Image.Image]) -> np.ndarray:
    """N pictures of one size as (N, H, W, 3) uint8."""
    return np.stack([np.asarray(image) for image in images])


if __name__ == "__main__":
    run(main)
