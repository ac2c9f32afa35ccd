"""Lists of edits as JSON: lines, lists, and the layouts of sets that come as folders.

A reader gives the rows of one file by name. In place of a row that cannot be parsed is the
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
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def json_lines(path: epath.Path) -> Iterator[tuple[str, Any]]:
    """Rows of a file with one JSON object per line.

    Raises:
      UserError: it is not UTF-8.
    """
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            yield f"line {number}", _row_of_text(line)


def json_rows(path: epath.Path) -> Rows:
    """Rows of a list of objects, or of {target: {ref_image_path, caption}}.

    Raises:
      UserError: it is neither, or not JSON in UTF-8.
    """
    content = read_list(path)
    if isinstance(content, list):
        return ((f"row {number}", _whole(row)) for number, row in enumerate(content, 1))
    if isinstance(content, dict):
        return (_published_row(target, row) for target, row in content.items())
    raise UserError(f"{path} should hold a list of rows or the published fine-tuning layout.")


def _published_row(target: str, row: Any) -> tuple[str, Any]:
    name = target.encode(errors="backslashreplace").decode()
    whole = _whole({target: row})
    if isinstance(whole, UserError) or not isinstance(row, dict):
        return name, whole if isinstance(whole, UserError) else None
    source, instruction = row.get("ref_image_path"), row.get("caption")
    return name, {"source": source, "target": target, "instruction": instruction, "id": target}


def magicbrush_rows(path: epath.Path) -> Rows:
    """Rows of MagicBrush's edit_turns.json; its pictures lie in images/ID beside it.

    Raises:
      UserError: it is not a list, or not JSON in UTF-8.
    """
    content = read_list(path)
    if not isinstance(content, list):
        raise UserError(f"{path} should hold MagicBrush's list of edit turns; download it again.")
    return (
        (f"row {number}", _magicbrush_row(_whole(row))) for number, row in enumerate(content, 1)
    )


def _magicbrush_row(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
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
        prompt = _row_of_text(_read_text(path))
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
        raise UserError(f"{path} cannot be read ({reason(e)}); check its rights and disk.") from e
    if data.startswith(UTF_16):
        raise UserError(f"{path} is UTF-16 text; save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e}); save it as UTF-8.") from e
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_list(path: epath.Path) -> Any:
    """What a JSON file holds; its rows may have halves of characters.

    Raises:
      UserError: it is not JSON in UTF-8, or cannot be read.
    """
    text = _read_text(path)
    try:
        return _parse(text)
    except UserError as e:
        raise UserError(
            f"{path} is not valid JSON ({e}); correct it, or name it .jsonl if it has a row a line."
        ) from e


def _parse(text: str) -> Any:
    """Strict but for what rows of other programs have in fields that do not matter here.

    These are NaN (of tables with gaps), and halves of characters, for which `_whole` looks row by
    row: the other rows are fine.

    Raises:
      UserError: with the reason alone.
    """
    try:
        return parse_json(text, "it")
    except UserError as e:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(str(e.__cause__ or e)) from e


def _row_of_text(text: str) -> Any:
    try:
        return _whole(_parse(text))
    except UserError as e:
        return UserError(f"not a JSON object ({e})")


def _whole(row: Any) -> Any:
    """The row, or the error that it has half a character."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        half = ascii(e.object[e.start])[1:-1]
        return UserError(f"not valid Unicode: it has half a character, {half}")
    except RecursionError:
        return UserError("nested too deeply to be read")
    return row
