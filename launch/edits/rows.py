"""The edits that launch.edit is asked for, as rows: one per picture and instruction."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

from etils import epath
from PIL import Image

from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.conditioning.picture_formats import usable_formats
from step1x_jax.data.paths import stays_inside
from step1x_jax.errors import UserError
from step1x_jax.files import find, is_file, is_remote, user_path
from step1x_jax.json_files import LARGEST, build, parse_json, shown
from step1x_jax.sampling.config import GuidanceScale, Steps

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class ListedRow:
    """A row as a list has it. What is None is as the flags say.

    Attributes:
      image: path of the picture, from the list's folder on.
      instruction: what to do to it.
      negative: what is not wanted.
      seed: of its first result.
      mask: path of its mask, likewise.
      steps: of the sampler.
      guidance: scale.
      output: path of the result, from the output folder on.
      target: path of the true edit, likewise as the picture: launch.bench compares with it.
    """

    image: str
    instruction: str | None = None
    negative: str | None = None
    seed: int | None = None
    mask: str | None = None
    steps: Steps | None = None
    guidance: GuidanceScale | None = None
    output: str | None = None
    target: str | None = None


@dataclasses.dataclass(frozen=True)
class Row(ListedRow):
    """A row with whole paths.

    Attributes:
      stem: replaces {stem} in the names of results.
    """

    stem: str = ""


def rows_of_flags(
    images: Sequence[str],
    instructions: Sequence[str],
    negatives: Sequence[str] = (),
    masks: Sequence[str] = (),
) -> list[Row]:
    """Rows of pictures that are named one by one, or of folders, of which all pictures are taken.

    Args:
      images: files and folders.
      instructions: one for all, or one for each of `images`; so are the next.
      negatives: likewise, or none.
      masks: likewise, or none.

    Raises:
      UserError: numbers do not fit together, or a folder has no pictures.
    """
    count = len(images)
    rows = []
    for image, instruction, negative, mask in zip(
        images,
        _for_each(instructions, count, "instruction"),
        _for_each(negatives or [None], count, "negative"),
        _for_each(masks or [None], count, "mask"),
        strict=True,
    ):
        place = epath.Path(user_path(image))
        files = pictures_in(place) if is_folder(place) else [place]
        mask = mask and user_path(mask)
        rows += [Row(str(f), instruction, negative, mask=mask, stem=f.stem) for f in files]
    return rows


def _for_each(values: Sequence[Value], count: int, flag: str) -> Sequence[Value]:
    if len(values) == 1:
        return [*values] * count
    if len(values) != count:
        raise UserError(
            f"there are {len(values)} --{flag} and {count} --image; give one for all or one for"
            " each, or a list with --edits."
        )
    return values


def is_folder(path: epath.PathLike) -> bool:
    """Whether there is a folder; no path is too odd to be asked for."""
    return epath.Path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def pictures_in(folder: epath.Path) -> list[epath.Path]:
    """The pictures in a folder by the endings of their names, sorted; not those below it.

    Raises:
      UserError: there is none, or the folder cannot be listed.
    """
    formats = usable_formats()
    endings = {end for end, name in Image.registered_extensions().items() if name in formats}
    files = [
        path for path in find(folder, "[!.]*") if path.suffix.lower() in endings and is_file(path)
    ]
    if not files:
        raise UserError(f"{folder} has no pictures in it (files that end in .jpg, .png, ...).")
    return files


def read_rows(path: str, root: str | None = None) -> list[Row]:
    """Rows of a list.

    Args:
      path: a .jsonl file with a row a line, or a .json file with a list of rows or, as the
        release has it, {picture: instruction}.
      root: folder where the paths of pictures and masks start; None: that of the list.

    Raises:
      UserError: it is no such list: names the row. Or a path in it is absolute or goes up.
    """
    place = epath.Path(user_path(path))
    folder = place.parent if root is None else epath.Path(user_path(root))
    rows = []
    for name, values in _values(place):
        source = f"{place}, {name}"
        listed = build(ListedRow, values, source)
        for part in (listed.image, listed.mask, listed.output, listed.target):
            check_stays(part, source)
        whole = vars(listed) | {"image": str(folder / listed.image)}
        for field in ("mask", "target"):
            if (part := getattr(listed, field)) is not None:
                whole[field] = str(folder / part)
        stem = str(pathlib.PurePosixPath(listed.image).with_suffix(""))
        rows.append(Row(**whole, stem=stem))
    if not rows:
        raise UserError(f"{place} has no rows; give a list of edits.")
    return rows


def _values(path: epath.Path) -> list[tuple[str, Any]]:
    """Read the rows of a list, each with a name for messages."""
    data = read_input_file(path, "a list of edits", LARGEST)
    if path.suffix.lower() == ".jsonl":
        lines = [(f"line {i}", line) for i, line in enumerate(data.splitlines(), 1)]
        return [
            (name, _object(parse_json(line, f"{path}, {name}"), f"{path}, {name}"))
            for name, line in lines
            if line.strip()
        ]
    values = parse_json(data, str(path))
    if isinstance(values, list):
        return [
            (f"row {i}", _object(value, f"{path}, row {i}")) for i, value in enumerate(values, 1)
        ]
    if isinstance(values, dict) and all(isinstance(text, str) for text in values.values()):
        return [
            (f"row {i}", {"image": name, "instruction": text})
            for i, (name, text) in enumerate(values.items(), 1)
        ]
    raise UserError(f"{path} should hold a list of rows, or an object of picture: instruction.")


def _object(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{source} is {shown(value)}; give an object with image and instruction.")
    return value


def check_stays(path: str | None, source: str) -> None:
    """Raise UserError for a path of a list that leads out of the folder where it starts."""
    if path is not None and not stays_inside(path):
        raise UserError(
            f"{source}: {shown(path)} is no path inside of the folder; give one without .. that"
            " starts there (--root says where)."
        )
