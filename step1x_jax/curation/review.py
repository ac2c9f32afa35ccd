"""People look at edits: a page to judge them on, and the stage that reads what they said.

The page has all edits that came to the stage. It keeps verdicts in the browser, and saves them as a
file with a line for each: {"id": ..., "verdict": "keep" or "reject", "reason": ...}.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from etils import epath

from step1x_jax.conditioning.images import decode_image
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.curation.engine.rows import ID, Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each
from step1x_jax.errors import UserError, require
from step1x_jax.evaluation.pages import render_page
from step1x_jax.files import making_folder, user_path
from step1x_jax.json_files import build, parse_json

REASONS = {
    "not_as_told": "not what the instruction says",
    "too_much": "more was changed than that",
    "artefacts": "one sees that it was edited",
    "instruction": "the instruction is wrong or unclear",
    "harmful": "it should not be learned",
}
LARGEST = 1 << 28  # bytes of a file of verdicts
LONGEST_SIDE = 640  # pixels of a picture on the page


@dataclasses.dataclass(frozen=True)
class ReviewVerdict:
    """What somebody said of an edit."""

    id: str
    verdict: Literal["keep", "reject"]
    reason: str = ""


@dataclasses.dataclass
class Review(Stage):
    """Leaves out what was rejected, and what nobody has looked at where that is required.

    Attributes:
      verdicts: the file that the page saved; "": there is none.
      required: categories of which only edits that somebody kept go on.
    """

    verdicts: str = ""
    required: tuple[str, ...] = ()

    reads: ClassVar = {"category": str}
    aside: ClassVar = ("verdicts",)  # its content counts

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        data = _read(self.verdicts)
        return {"verdicts": hashlib.sha256(data).hexdigest() if data else ""}

    def open(self) -> Operator:
        """See `Stage`."""
        verdicts = read_verdicts(self.verdicts)

        def look(row: Row) -> Mapping[str, Any] | Rejected:
            verdict = verdicts.get(row[ID])
            if verdict is not None and verdict.verdict == "reject":
                return Rejected(f"reviewer_{verdict.reason or 'rejected'}")
            if verdict is None and row["category"] in self.required:
                return Rejected("not_reviewed")
            return {}

        return each(look)


def read_verdicts(path: str) -> dict[str, ReviewVerdict]:
    """Verdicts by id; of several of one edit the last.

    Raises:
      UserError: the file is not there, or not as the page saves it.
    """
    verdicts = {}
    for number, line in enumerate(_read(path).decode(errors="replace").splitlines(), 1):
        if line.strip():
            source = f"{path}, line {number}"
            verdict = build(ReviewVerdict, parse_json(line, source), source)
            known = verdict.reason in ("", *REASONS)
            require(known, f"{source}: reason", verdict.reason, f"give one of {', '.join(REASONS)}")
            verdicts[verdict.id] = verdict
    return verdicts


def _read(path: str) -> bytes:
    return read_input_file(user_path(path), "a file of verdicts", LARGEST) if path else b""


def write_page(rows: Iterable[Row], output: epath.PathLike) -> int:
    """Write the page with its pictures as a folder: complete, or not at all.

    Args:
      rows: edits with category, source, target and both instructions.
      output: the folder, which must not exist.

    Returns:
      How many edits are on the page.

    Raises:
      UserError: the folder exists, or cannot be written.
    """
    output = epath.Path(output)
    if output.exists():
        raise UserError(f"{output} exists; remove it, or give another --output.")
    with making_folder(output) as folder:
        (folder / "pictures").mkdir()
        edits = [_edit(number, row, folder) for number, row in enumerate(rows)]
        key = hashlib.sha256(json.dumps(edits).encode()).hexdigest()[:16]
        data = {"key": key, "reasons": REASONS, "edits": edits}
        page = render_page("curation/review", "Review of edits", data)
        (folder / "index.html").write_text(page, encoding="utf-8")
    return len(edits)


def _edit(number: int, row: Row, folder: epath.Path) -> dict[str, str]:
    """What the page is told of an edit; writes its pictures."""
    picture = f"{number:07d}"
    for name in ("source", "target"):
        image = decode_image(row[name], name)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        with (folder / "pictures" / f"{picture}-{name}.jpg").open("wb") as file:
            image.save(file, format="jpeg", quality=92)
    texts = {"en": row["instruction_en"], "cn": row["instruction_cn"]}
    return {"id": row[ID], "category": row["category"], "picture": picture, **texts}
