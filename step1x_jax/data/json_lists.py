"""Lists of edits as JSON: lines, lists, and the layouts of sets that come as folders.

A reader gives the rows of one file by name. A row that cannot be parsed is None.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from step1x_jax.errors import UserError

Rows = Iterable[tuple[str, Any]]


def json_lines(path: epath.Path) -> Iterator[tuple[str, Any]]:
    """Rows of a file with one JSON object per line.

    Raises:
      UserError: it is not UTF-8.
    """
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError:
                yield f"line {number}", None


def json_rows(path: epath.Path) -> Rows:
    """Rows of a list of objects, or of {target: {ref_image_path, caption}}.

    Raises:
      UserError: it is neither, or not JSON in UTF-8.
    """
    content = _read_json(path)
    if isinstance(content, list):
        return ((f"row {number}", row) for number, row in enumerate(content, 1))
    if isinstance(content, dict):
        return ((target, _published_row(target, row)) for target, row in content.items())
    raise UserError(f"{path} should hold a list of rows or the published fine-tuning layout.")


def _published_row(target: str, row: Any) -> Any:
    if not isinstance(row, dict):
        return None
    source, instruction = row.get("ref_image_path"), row.get("caption")
    return {"source": source, "target": target, "instruction": instruction, "id": target}


def magicbrush_rows(path: epath.Path) -> Rows:
    """Rows of MagicBrush's edit_turns.json; its pictures lie in images/ID beside it.

    Raises:
      UserError: it is not a list, or not JSON in UTF-8.
    """
    content = _read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} should hold MagicBrush's list of edit turns; download it again.")
    return ((f"row {number}", _magicbrush_row(row)) for number, row in enumerate(content, 1))


def _magicbrush_row(row: Any) -> Any:
    if not isinstance(row, dict):
        return None
    target = row.get("output")
    return {
        "source": _magicbrush_place(row.get("input")),
        "target": _magicbrush_place(target),
        "instruction": row.get("instruction"),
        "id": pathlib.PurePath(target).stem if isinstance(target, str) else None,
    }


def _magicbrush_place(name: Any) -> Any:
    return f"images/{name.split('-')[0]}/{name}" if isinstance(name, str) else name


def instructpix2pix_rows(path: epath.Path) -> Iterator[tuple[str, Any]]:
    """Rows of one folder of InstructPix2Pix, by its prompt.json.

    Beside it lie SEED_0.jpg (before) and SEED_1.jpg (after) for some seeds; for none, if no picture
    was good enough when the set was made.
    """
    try:
        prompt = json.loads(path.read_text())
    except ValueError:
        prompt = None
    for picture in sorted(path.parent.glob("*_0.jpg")):
        seed = picture.name.removesuffix("_0.jpg")
        row = None
        if isinstance(prompt, dict):
            pictures = {"source": f"{seed}_0.jpg", "target": f"{seed}_1.jpg"}
            row = {**pictures, "instruction": prompt.get("edit")}
        yield f"seed {seed}", row


def _read_text(path: epath.Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e}); save it as UTF-8.") from e


def _read_json(path: epath.Path) -> Any:
    text = _read_text(path)
    try:
        return json.loads(text)
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON ({e}); mend it, or name it .jsonl.") from e
