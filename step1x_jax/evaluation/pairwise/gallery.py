"""Galleries: a folder for each method with a picture for each key, and a list of them.

    GALLERY/METHOD/KEY.png
    GALLERY/metadata.jsonl      {"key": KEY, "candidates": [{"model": METHOD, "image": PATH}, ...]}

PATH is relative to GALLERY. This is the layout of GEditBench v2 (ZhangqiJiang07/GEditBench_v2),
whose rows may have more fields: the instruction and the source picture.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from step1x_jax.data.json_readers import read_json_lines
from step1x_jax.data.paths import stays_inside
from step1x_jax.errors import UserError
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.files import is_file, replacing
from step1x_jax.json_files import shown

METADATA = "metadata.jsonl"

Gallery = dict[str, dict[str, epath.Path]]  # key -> method -> its picture


def path_inside(folder: epath.PathLike, relative: Any, source: str) -> epath.Path:
    """The path of a file that a list names, within the list's folder.

    Raises:
      UserError: it is no text, or leads out of the folder; begins with `source`.
    """
    if not isinstance(relative, str) or not relative:
        raise UserError(f"{source} names {shown(relative)} as a picture; give a path.")
    if not stays_inside(relative):
        raise UserError(
            f"{source} names {shown(relative)}, which is outside of its folder; copy the picture"
            " there and give the path from there."
        )
    return epath.Path(folder) / relative


def list_rows(path: epath.Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a list, one JSON object a line, each with its place for messages.

    Raises:
      UserError: it cannot be read, or a line is no JSON object.
    """
    rows = []
    for name, row in read_json_lines(path):
        source = f"{path}, {name}"
        if isinstance(row, UserError):
            raise UserError(f"{source}: {row}.")
        if not isinstance(row, dict):
            raise UserError(f"{source} is no JSON object; correct or remove it.")
        rows.append((source, row))
    if not rows:
        raise UserError(f"{path} has no rows; give a list with some.")
    return rows


def text_of(row: Mapping[str, Any], field: str, source: str) -> str:
    """A field of a row that must be text.

    Raises:
      UserError: it is missing or none; begins with `source`.
    """
    if not isinstance(row.get(field), str) or not row[field]:
        raise UserError(f"{source} has no text as {field}, but {shown(row.get(field))}; add it.")
    return row[field]


def read_gallery(folder: epath.PathLike) -> Gallery:
    """Read what a gallery's list names, without looking for the pictures.

    Raises:
      UserError: there is no list, a row has another form or a key that has been there, or a path
        leads out of the folder.
    """
    gallery: Gallery = {}
    for source, row in list_rows(epath.Path(folder) / METADATA):
        key = text_of(row, "key", source)
        if key in gallery:
            raise UserError(f"{source} lists {key} again; put its candidates into one row.")
        candidates = row.get("candidates")
        if not isinstance(candidates, list) or not all(isinstance(one, dict) for one in candidates):
            raise UserError(f"{source} has no list of objects as candidates; correct it.")
        pictures = gallery[key] = {}
        for candidate in candidates:
            method = text_of(candidate, "model", source)
            if method in pictures:
                raise UserError(f"{source} lists {method} twice; remove one of them.")
            pictures[method] = path_inside(folder, candidate.get("image"), source)
    return gallery


def has_list(folder: epath.PathLike) -> bool:
    """Whether a folder is a gallery with a list."""
    return is_file(epath.Path(folder) / METADATA)


def update_gallery(folder: epath.PathLike, method: str, pictures: Mapping[str, epath.Path]) -> None:
    """Write a method into a gallery's list, completely or not at all; other methods stay.

    Args:
      folder: the gallery; its list is made if there is none.
      method: its name.
      pictures: key -> its picture, below the folder.

    Raises:
      UserError: a picture is elsewhere, the list that is there is none, or it cannot be written.
    """
    images = {key: _relative(path, folder) for key, path in pictures.items()}
    path = epath.Path(folder) / METADATA
    rows: dict[str, dict[str, Any]] = {}
    if has_list(folder):
        read_gallery(folder)  # refuses what is none
        rows = {row["key"]: row for _, row in list_rows(path)}
    for key, image in images.items():
        row = rows.setdefault(key, {"key": key, "candidates": []})
        others = [one for one in row["candidates"] if one["model"] != method]
        row["candidates"] = [*others, {"model": method, "image": image}]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values())
    with replacing(path) as temporary:
        temporary.write_text("".join(lines))


def _relative(path: epath.Path, folder: epath.PathLike) -> str:
    try:
        return path.relative_to(epath.Path(folder)).as_posix()
    except ValueError as e:
        raise UserError(f"{path} is not in {folder}; copy it there.") from e


def find_listed(
    folder: epath.PathLike, method: str, samples: Iterable[SampleId]
) -> dict[SampleId, epath.Path]:
    """The pictures of a method that a gallery's list names and that are there.

    Args:
      folder: of all methods, a gallery if it has a list.
      method: its name.
      samples: whose pictures are wanted.

    Raises:
      UserError: see `read_gallery`.
    """
    if not has_list(folder):
        return {}
    gallery = read_gallery(folder)
    named = {sample: gallery.get(sample.key, {}).get(method) for sample in samples}
    return {sample: path for sample, path in named.items() if path and is_file(path)}
