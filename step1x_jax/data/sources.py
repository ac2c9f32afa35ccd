"""Triplets from files: which source picture becomes which target by which instruction.

A new kind of input is a function here, in READERS, from a file's text to rows with the fields of
REQUIRED and OPTIONAL, see launch/guides/data.md.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.data.manifest import BadRow
from step1x_jax.errors import UserError

REQUIRED = ("source", "target", "instruction")
OPTIONAL = ("language", "task", "id")


@dataclasses.dataclass(frozen=True)
class Triplet:
    """One edit to learn.

    Attributes:
      row: names the row for people.
      folder: where relative paths start.
      source: path of the picture before, as written in the file.
      target: path of the picture after, as written in the file.
      instruction: may be empty.
      language: of the instruction; "" if not known.
      task: kind of edit; "" if not known.
      id: of the edit.
    """

    row: str
    folder: str
    source: str
    target: str
    instruction: str
    language: str
    task: str
    id: str

    @property
    def source_path(self) -> str:
        """Where the picture before lies."""
        return str(epath.Path(self.folder) / self.source)

    @property
    def target_path(self) -> str:
        """Where the picture after lies."""
        return str(epath.Path(self.folder) / self.target)


def read_triplets(path: epath.PathLike) -> tuple[list[Triplet], list[BadRow]]:
    """Reads a list of edits.

    Args:
      path: a .jsonl file with one object per line, or a .json file with a list of objects or with
        the published fine-tuning layout {target path: {ref_image_path, caption}}. Paths in it are
        relative to its folder.

    Returns:
      The edits in the file's order, and the rows that are none.

    Raises:
      UserError: the file cannot be read or has another form.
    """
    path = epath.Path(path)
    if path.suffix not in READERS or not path.is_file():
        reason = "is no" if path.exists() else "does not exist; give a"
        raise UserError(f"{path} {reason} file of edits that ends in {' or '.join(READERS)}.")
    try:
        text = path.read_text()
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e}); save it as UTF-8.") from e
    rows = READERS[path.suffix](text, path)
    triplets, bad_rows = [], []
    for name, row in rows:
        try:
            triplets.append(_triplet(f"{path.name} {name}", row, path.parent))
        except UserError as e:
            bad_rows.append(BadRow(f"{path.name} {name}", str(e)))
    if not triplets and not bad_rows:
        raise UserError(f"{path} has no rows; give a file of triplets.")
    return triplets, bad_rows


def _json_lines(text: str, path: epath.Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError:
                yield f"line {number}", None


def _json_rows(text: str, path: epath.Path) -> Iterable[tuple[str, Any]]:
    try:
        content = json.loads(text)
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON ({e}); mend it, or name it .jsonl.") from e
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


# By the file's ending: from its text (and its path, for messages) to named rows.
READERS: dict[str, Callable[[str, epath.Path], Iterable[tuple[str, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_rows,
}


def _triplet(name: str, row: Any, folder: epath.Path) -> Triplet:
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    for field in REQUIRED:
        if not isinstance(row.get(field), str):
            raise UserError(f"{field} is {'missing' if row.get(field) is None else 'not a text'}")
    check_instruction(row["instruction"])
    optional = {f: "" if row.get(f) is None else str(row[f]) for f in OPTIONAL}
    return Triplet(
        row=name,
        folder=str(folder),
        source=row["source"],
        target=row["target"],
        instruction=row["instruction"],
        **(optional | {"id": optional["id"] or name}),
    )


def picture_length(path: str) -> int:
    try:
        return epath.Path(path).stat().length
    except (OSError, ValueError):
        return -1


def read_picture(path):
    from step1x_jax.conditioning.images import read_image_bytes
    return read_image_bytes(path)
