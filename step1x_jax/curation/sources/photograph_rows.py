"""What every source gives: a photograph's file with where it is from, or why there is none."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from step1x_jax.conditioning.images import decode_image
from step1x_jax.curation.engine.columns import Columns
from step1x_jax.curation.engine.rows import Outcome, Rejected
from step1x_jax.curation.engine.source import Source
from step1x_jax.errors import UserError, require

COLUMNS: Columns = {
    "picture": bytes,  # the file, as it was found
    "name": str,  # for people: where it was found
    "group": str,  # what must stay in one split: pictures of one scene, such as frames of a video
    "licence": str,  # "" if nobody says
    "url": str,
    "sha256": str,  # of the file
    "width": int,  # as shown, in pixels
    "height": int,
}
# Names that others have for what we call so, the first that is there counts.
LICENCE = ("licence", "license", "License", "LICENSE")
URL = ("url", "URL", "source_url", "original_url")
MOST_ROWS = 10_000  # of a part
UNIT_BYTES = 64 << 20  # of a part's pictures: the part, with all else, has at most 128 MiB

Item = TypeVar("Item")


@dataclasses.dataclass
class StoredPhotographs(Source):
    """Photographs that lie somewhere, with or without a word on where they are from.

    Attributes:
      path: see the classes below this one.
      licence: of those of which nothing else says it.
      url: likewise.
      rows: pictures of a part, at most.
    """

    path: str = ""
    licence: str = ""
    url: str = ""
    rows: int = 256

    writes: ClassVar = COLUMNS

    def validate(self) -> None:
        """See `Stage`."""
        check_rows(self.rows)

    def photograph(self, data: bytes, name: str, facts: Mapping[str, Any]) -> Outcome:
        """See `photograph_row`; `facts` may have fields named as in LICENCE and URL."""
        return photograph_row(
            data,
            name,
            licence=first_text(facts, LICENCE, self.licence),
            url=first_text(facts, URL, self.url),
        )


def photograph_row(
    data: bytes, name: str, *, group: str = "", licence: str = "", url: str = ""
) -> Outcome:
    """The row of a photograph; rejected if its file is no picture.

    Args:
      data: of its file.
      name: where it was found.
      group: see COLUMNS; "": its name.
      licence: see COLUMNS.
      url: see COLUMNS.
    """
    facts = {"name": name, "group": group or name, "licence": licence, "url": url}
    facts |= {"sha256": hashlib.sha256(data).hexdigest()}
    try:
        image = decode_image(data, name)
    except UserError as e:
        return Rejected("unreadable_picture", str(e), facts)
    return {**facts, "picture": data, "width": image.width, "height": image.height}


def first_text(values: Mapping[str, Any], names: Sequence[str], default: str) -> str:
    """The first of some fields that holds a text."""
    for name in names:
        if isinstance(values.get(name), str) and values[name].strip():
            return " ".join(values[name].split())
    return default


def check_rows(rows: int) -> None:
    """Raise UserError for a number of rows that no part can have."""
    require(1 <= rows <= MOST_ROWS, "rows", rows, f"give 1 to {MOST_ROWS} rows a part")


def cut(items: Sequence[Item], sizes: Sequence[int], rows: int) -> list[list[Item]]:
    """Items in groups of at most `rows`, and of at most UNIT_BYTES unless one alone has more."""
    groups: list[list[Item]] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if not groups or len(groups[-1]) == rows or total + size > UNIT_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(item)
        total += size
    return groups
