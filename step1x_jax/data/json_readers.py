"""Readers of edit lists in JSON: lines, lists, and the layouts of data sets that are folders.

A reader yields the (name, row) pairs of one file. A row that cannot be parsed is replaced by the
UserError that says why.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import find, reason
from step1x_jax.json_files import parse_json

Rows = Iterable[tuple[str, Any]]
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_json_lines(path: epath.Path) -> Iterator[tuple[str, Any]]:
    """Read the rows of a file with one JSON object per line.

    Raises:
      UserError: the file is not UTF-8.
    """
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            yield f"line {number}", _parse_row(line)


def read_json_rows(path: epath.Path) -> Rows:
    """Read the rows of a list of objects, or of {target: {ref_image_path, caption}}.

    The latter is the fine-tuning layout of the Step1X-Edit repository.

    Raises:
      UserError: the file has neither layout, or is not JSON in UTF-8.
    """
    content = read_json_value(path)
    if isinstance(content, list):
        return ((f"row {number}", _check_unicode(row)) for number, row in enumerate(content, 1))
    if isinstance(content, dict):
        return (_convert_published_row(target, row) for target, row in content.items())
    raise UserError(f"{path} should hold a list of rows or the published fine-tuning layout.")


def _convert_published_row(target: str, row: Any) -> tuple[str, Any]:
    name = target.encode(errors="backslashreplace").decode()
    checked = _check_unicode({target: row})
    if isinstance(checked, UserError) or not isinstance(row, dict):
        return name, checked if isinstance(checked, UserError) else None
    source, instruction = row.get("ref_image_path"), row.get("caption")
    return name, {"source": source, "target": target, "instruction": instruction, "id": target}


def read_magicbrush_rows(path: epath.Path) -> Rows:
    """Read the rows of MagicBrush's edit_turns.json, whose pictures are in images/ID beside it.

    Raises:
      UserError: the file is not a list, or not JSON in UTF-8.
    """
    content = read_json_value(path)
    if not isinstance(content, list):
        raise UserError(f"{path} should hold MagicBrush's list of edit turns; download it again.")
    return (
        (f"row {number}", _convert_magicbrush_row(_check_unicode(row)))
        for number, row in enumerate(content, 1)
    )


def _convert_magicbrush_row(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    target = row.get("output")
    return {
        "source": _magicbrush_path(row.get("input")),
        "target": _magicbrush_path(target),
        "instruction": row.get("instruction"),
        "id": pathlib.PurePath(target).stem if isinstance(target, str) else None,
    }


def _magicbrush_path(name: Any) -> Any:
    return f"images/{name.split('-')[0]}/{name}" if isinstance(name, str) else name


def read_instructpix2pix_rows(path: epath.Path) -> Iterator[tuple[str, Any]]:
    """Read the rows of one folder of InstructPix2Pix, given its prompt.json.

    For each seed the folder has SEED_0.jpg (source) and SEED_1.jpg (target). It may have no seeds:
    then no picture passed the filters when the data set was made.
    """
    try:
        prompt = _parse_row(_read_text(path))
    except UserError as e:
        prompt = e
    for picture in find(path.parent, "*_0.jpg"):
        seed = picture.name.removesuffix("_0.jpg")
        row = prompt
        if isinstance(prompt, dict):
            pictures = {"source": f"{seed}_0.jpg", "target": f"{seed}_1.jpg"}
            row = {**pictures, "instruction": prompt.get("edit")}
        yield f"seed {seed}", row


def _read_text(path: epath.Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path} cannot be read ({reason(e)}); check permissions and disk.") from e
    if data.startswith(UTF_16_MARKS):
        raise UserError(f"{path} is UTF-16 text; save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e}); save it as UTF-8.") from e
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json_value(path: epath.Path) -> Any:
    """Parse a JSON file; texts in it may contain lone surrogates.

    Raises:
      UserError: the file is not JSON in UTF-8, or cannot be read.
    """
    text = _read_text(path)
    try:
        return _parse(text)
    except UserError as e:
        raise UserError(
            f"{path} is not valid JSON ({e}); correct it, or name it .jsonl if each line is a row."
        ) from e


def _parse(text: str) -> Any:
    """Parse JSON strictly, but accept NaN and lone surrogates.

    Other programs write NaN for missing values. Lone surrogates are found row by row by
    `_check_unicode`, so that they invalidate only their own row.

    Raises:
      UserError: the message contains only the reason.
    """
    try:
        return parse_json(text, "it")
    except UserError as e:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(str(e.__cause__ or e)) from e


def _parse_row(text: str) -> Any:
    try:
        return _check_unicode(_parse(text))
    except UserError as e:
        return UserError(f"not a JSON object ({e})")


def _check_unicode(row: Any) -> Any:
    """Return the row, or a UserError if it contains a lone surrogate."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        surrogate = ascii(e.object[e.start])[1:-1]
        return UserError(f"not valid Unicode: it contains a lone surrogate, {surrogate}")
    except RecursionError:
        return UserError("nested too deeply to be read")
    return row
