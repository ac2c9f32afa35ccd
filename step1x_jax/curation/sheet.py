"""Examples of a run at a glance: source, target and both instructions, as a picture and a page."""

import base64
import collections
import hashlib
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.conditioning.picture_row import can_write, picture_row
from step1x_jax.curation.engine.rows import ID, Row
from step1x_jax.curation.results import EDIT, Results, groups_of

HEIGHT = 256  # pixels of a picture
ACROSS = 2  # edits beside each other
PAPER = (255, 255, 255)
MOST = 1000  # edits of a sheet

Example = tuple[Row, Image.Image, Image.Image]  # the row, source and target as shown


def choose(rows: Iterable[Row], each: int, seed: int = 0) -> list[str]:
    """Choose edits of each category, of the photographs in turn.

    Args:
      rows: all, with category and group or groups.
      each: of a category, at most.
      seed: of the order within a photograph.

    Returns:
      Their ids, category by category in the order in which these come.
    """
    piles: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        group = (groups_of(row) or [""])[0]
        piles.setdefault(row["category"], {}).setdefault(group, []).append(row[ID])

    def key(id: str) -> str:
        return hashlib.sha256(f"{seed} {id}".encode()).hexdigest()

    chosen = []
    for groups in piles.values():
        queues = collections.deque(sorted(ids, key=key) for ids in groups.values())
        taken = 0
        while queues and taken < each:
            ids = queues.popleft()
            chosen.append(ids.pop(0))
            taken += 1
            if ids:
                queues.append(ids)
    return chosen


def examples(results: Results, each: int, seed: int = 0) -> list[Example]:
    """The chosen edits with their pictures, in the order of `choose`."""
    columns = {"category": str, "group": str, "groups": list[str]}
    ids = choose(results.accepted(columns), each, seed)[:MOST]
    order = {id: number for number, id in enumerate(ids)}
    found = [
        (row, _shown(row["source"], "source"), _shown(row["target"], "target"))
        for row in results.accepted(EDIT, set(ids))
    ]
    return sorted(found, key=lambda one: order[one[0][ID]])


def shows_chinese(chosen: Sequence[Example]) -> bool:
    """Whether there is a font here for the Chinese instructions, so that `draw` writes them."""
    return can_write("".join(row["instruction_cn"] for row, _, _ in chosen))


def draw(chosen: Sequence[Example]) -> Image.Image:
    """One picture of all: source, target, and below them the category and both instructions."""
    fields = ("instruction_en", "instruction_cn") if shows_chinese(chosen) else ("instruction_en",)
    rows = [
        picture_row(
            [source, target], f"{row['category']}: {' '.join(row[field] for field in fields)}"
        )
        for row, source, target in chosen
    ]
    lines = [rows[i : i + ACROSS] for i in range(0, len(rows), ACROSS)]
    heights = [max(one.height for one in line) for line in lines]
    widths = [max(line[i].width for line in lines if i < len(line)) for i in range(ACROSS) if rows]
    page = Image.new("RGB", (max(sum(widths), 1), max(sum(heights), 1)), PAPER)
    top = 0
    for line, height in zip(lines, heights, strict=True):
        for i, one in enumerate(line):
            page.paste(one, (sum(widths[:i]), top))
        top += height
    return page


def page(chosen: Sequence[Example], title: str) -> str:
    """The same as a page of HTML that needs no other file."""
    lines = []
    for row, source, target in chosen:
        cells = [
            f'<td><img src="{_inline(source)}" alt="source"></td>',
            f'<td><img src="{_inline(target)}" alt="target"></td>',
            *(
                f'<td lang="{language}">{html.escape(row[f"instruction_{name}"])}</td>'
                for name, language in (("en", "en"), ("cn", "zh"))
            ),
        ]
        head = f"<th>{html.escape(row['category'])}<br><small>{html.escape(row[ID])}</small></th>"
        lines.append(f"<tr>{head}{''.join(cells)}</tr>")
    return _PAGE.format(title=html.escape(title), rows="\n".join(lines))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 sans-serif; margin: 2em; color: #202020 }}
td, th {{ padding: .4em; text-align: left; vertical-align: top; max-width: 24em }}
tr {{ border-top: 1px solid #ddd }}
small {{ color: #777; font-weight: normal }}
</style>
<h1>{title}</h1>
<table>
<tr><th></th><th>source</th><th>target</th><th>EN</th><th>CN</th></tr>
{rows}
</table>
</html>
"""


def _shown(data: bytes, name: str) -> Image.Image:
    """A picture at the sheet's height, or smaller where it is."""
    image = decode_image(data, name)
    width = max(1, round(image.width * HEIGHT / image.height))
    return image.resize((width, HEIGHT), Image.Resampling.LANCZOS)


def _inline(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, format="jpeg", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
