"""Edit the quickstart's held-out photographs and report how well.

python -m launch.quickstart_report --workdir=runs/quickstart/train \
    --edits=runs/quickstart/edits/export/edits --output=runs/quickstart

Prints a table; writes report.json and report.png (launch/guides/quickstart.md explains them).
"""

import json
import time

import numpy as np
from absl import flags
from etils import epath
from PIL import Image
from tqdm import tqdm

from launch.shared.command import run
from step1x_jax.conditioning.images import open_image
from step1x_jax.editing.editor import Editor
from step1x_jax.files import replacing
from step1x_jax.quickstart import report, report_picture
from step1x_jax.quickstart.held_out import HeldOutEdit, read_held_out
from step1x_jax.training.monitoring.metrics import read_metrics

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run of launch.train; or quickstart, the model that ships.", required=True
)
_EDITS = flags.DEFINE_string(
    "edits", None, "Folder of lists that launch.curate export made.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the report.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise; each edit has its own.")
_STARTED = flags.DEFINE_float(
    "started", None, "When the first step started (date +%s), for the report's seconds."
)

BATCH = 8  # pictures edited at a time


def main() -> None:
    """Edit, scores, write."""
    started = time.time() if _STARTED.value is None else _STARTED.value
    edits = read_held_out(_EDITS.value)
    sources = [open_image(edit.source) for edit in edits]
    targets = [open_image(edit.target) for edit in edits]
    editor = Editor.load(_WORKDIR.value)
    edited, reconstructed = _edit(editor, edits, sources, targets)

    before, after, ours = _arrays(sources), _arrays(targets), _arrays(edited)
    scores = report.score_edits(edits, before, after, ours, _arrays(reconstructed))
    gain = report.mean_gain(scores)
    output = epath.Path(_OUTPUT.value)
    with replacing(output / "report.png") as temporary, temporary.open("wb") as file:
        title = f"Photographs that no stage of training has seen: {gain:+.1f} dB on average"
        curve = read_metrics(_WORKDIR.value)
        missing = report_picture.draw_report(file, edits, before, after, ours, curve, title)
    seconds = time.time() - started
    with replacing(output / "report.json") as temporary:
        content = report.to_json(scores, round(seconds, 1))
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    print(report.format_table(scores))
    print("PSNR to the true edit in dB; gain, photo-blind and ceiling: above the untouched source.")
    if missing:
        print(f"({missing})")
    print(f"mean gain {gain:+.2f} dB; {seconds:.0f} s")
    print(f"{output / 'report.json'}, {output / 'report.png'}")


def _edit(
    editor: Editor,
    edits: list[HeldOutEdit],
    sources: list[Image.Image],
    targets: list[Image.Image],
) -> tuple[list[Image.Image], list[Image.Image]]:
    """The model's edits of the sources, and the true edits through the autoencoder."""
    edited: dict[int, Image.Image] = {}
    reconstructed: dict[int, Image.Image] = {}
    with tqdm(total=len(edits), desc="editing", unit="edit") as bar:
        for size in dict.fromkeys(picture.size for picture in targets):
            of_size = [i for i, picture in enumerate(targets) if picture.size == size]
            for start in range(0, len(of_size), BATCH):
                part = of_size[start : start + BATCH]
                instructions = [edits[i].instruction for i in part]
                pictures = [sources[i] for i in part]
                made = editor.edit(pictures, instructions, seed=_SEED.value + part[0])
                edited |= zip(part, made, strict=True)
                latents = np.stack([editor.encode(targets[i]) for i in part])
                reconstructed |= zip(part, editor.decode(latents), strict=True)
                bar.update(len(part))
    return [edited[i] for i in range(len(edits))], [reconstructed[i] for i in range(len(edits))]


def _arrays(images: list[Image.Image]) -> list[np.ndarray]:
    """Pictures as (H, W, 3) uint8."""
    return [np.asarray(image) for image in images]


if __name__ == "__main__":
    run(main)
