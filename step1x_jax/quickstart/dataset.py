"""The quickstart's edit data set: crops of photographs, every kind of edit, as triplet files.

A folder holds `triplets.jsonl` for training and `held_out.jsonl` for evaluation, one edit per line,
and the pictures they name (paths relative to the folder). Training pictures and held-out pictures
come from different photographs.
"""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.files import making_folder
from step1x_jax.json_files import build, parse_json
from step1x_jax.quickstart import photographs
from step1x_jax.quickstart.edits import KINDS

TRAINING_FILE = "triplets.jsonl"
HELD_OUT_FILE = "held_out.jsonl"
SETTINGS_FILE = "settings.json"
FIELDS = {"id", "image", "kind", "task", "language", "instruction", "source", "target"}  # of a row

# Raise when the pictures or instructions change, so that an old folder is not taken for a new one.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the data set's content.

    Attributes:
      crops: Training crops; each is edited in every kind.
      size: Side of all pictures in pixels.
      seed: Of crops and of the choice of phrasings.
    """

    crops: int = 200
    size: int = 128
    seed: int = 0


def write(output: epath.PathLike, settings: Settings) -> Iterator[int]:
    """Makes the data set, unless it is there; yields the number of finished crops.

    The folder gets its name only when it is complete; an interrupted run starts again (seconds).

    Args:
      output: Folder to make.
      settings: What to make.

    Yields:
      1, 2, ... up to `total_crops(settings)`; nothing at all if the data set was there.

    Raises:
      UserError: the folder exists with other settings or other content, or a photograph is
        missing.
    """
    output = epath.Path(output)
    description = json.dumps({"version": VERSION, **dataclasses.asdict(settings)}, sort_keys=True)
    if output.exists():
        stored = output / SETTINGS_FILE
        if stored.exists() and stored.read_text() == description:
            return
        raise UserError(
            f"{output} exists and was not made with these settings ({description}): "
            "remove it or choose another --output"
        )
    with making_folder(output) as unfinished:
        yield from _write_all(unfinished, settings)
        (unfinished / SETTINGS_FILE).write_text(description)


def total_crops(settings: Settings) -> int:
    """Number of crops in the data set, training and held out."""
    return settings.crops + len(photographs.HELD_OUT) * len(photographs.FIXED_CROPS)


def read_held_out(folder: epath.PathLike) -> list[dict[str, str]]:
    """The held-out edits in order, with `source` and `target` as paths that can be opened.

    Args:
      folder: A folder that `write` made.

    Returns:
      One dictionary per edit: id, image (id of the crop), kind, task, language,
      instruction, source, target.

    Raises:
      UserError: there is no data set, or a row is not as `write` makes it.
    """
    folder = epath.Path(folder)
    path = folder / HELD_OUT_FILE
    if not path.exists():
        raise UserError(f"{path} is missing: run python -m launch.quickstart_data first")
    rows = [
        build(dict[str, str], parse_json(line, f"{path} line {number}"), f"{path} line {number}")
        for number, line in enumerate(path.read_bytes().decode().splitlines(), 1)
    ]
    for number, row in enumerate(rows, 1):
        if missing := sorted(FIELDS - row.keys()):
            raise UserError(
                f"{path} line {number} has no {missing[0]}: remove the folder and run"
                " python -m launch.quickstart_data again"
            )
    pictures = ("source", "target")
    return [{**row, **{key: str(folder / row[key]) for key in pictures}} for row in rows]


def _write_all(folder: epath.Path, settings: Settings) -> Iterator[int]:
    """Writes all pictures and both lists into the folder; yields the number of finished crops."""
    (folder / "sources").mkdir(parents=True)
    (folder / "targets").mkdir()
    training = (
        (f"train_{number:04d}", _training_crop(settings, number))
        for number in range(settings.crops)
    )
    held_out = (
        (f"{photograph}_{number}", crop)
        for photograph, crops in photographs.held_out_crops(settings.size).items()
        for number, crop in enumerate(crops)
    )
    done = 0
    for name, crops in ((TRAINING_FILE, training), (HELD_OUT_FILE, held_out)):
        lines = []
        for number, (image_id, image) in enumerate(crops):
            rows = _write_edits(folder, image_id, image, settings.seed, number)
            lines += [json.dumps(row, ensure_ascii=False) for row in rows]
            done += 1
            yield done
        (folder / name).write_bytes(("\n".join(lines) + "\n").encode())


def _training_crop(settings: Settings, number: int) -> np.ndarray:
    """(S, S, 3) uint8, a function of the seed and the crop's number alone."""
    return photographs.random_crop(np.random.default_rng((settings.seed, number)), settings.size)


def _write_edits(
    folder: epath.Path, image_id: str, image: np.ndarray, seed: int, crop: int
) -> Iterator[dict[str, str]]:
    """Writes a crop (the list's number `crop`) and all its edits; yields their rows."""
    source = f"sources/{image_id}.png"
    _write_png(folder / source, image)
    for number, kind in enumerate(KINDS.values()):
        edit_id = f"{image_id}_{kind.name}"
        target = f"targets/{edit_id}.png"
        _write_png(folder / target, kind.apply(image))
        # Languages alternate over crops and over kinds; phrasings are drawn.
        language = ("en", "cn")[(crop + number) % 2]
        phrasings = kind.english if language == "en" else kind.chinese
        draw = np.random.default_rng((seed, crop, number)).integers(len(phrasings))
        yield {
            "id": edit_id,
            "image": image_id,
            "source": source,
            "target": target,
            "instruction": phrasings[draw],
            "language": language,
            "task": kind.task,
            "kind": kind.name,
        }


def _write_png(path: epath.Path, image: np.ndarray) -> None:
    """Writes (H, W, 3) uint8, lossless."""
    with path.open("wb") as file:
        Image.fromarray(image).save(file, format="png", compress_level=1)
