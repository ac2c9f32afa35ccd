"""Measures against true edits and sources, to be read."""

from collections.abc import Mapping, Sequence

from step1x_jax.evaluation.markdown import NOTHING, format_number, format_table, join_parts
from step1x_jax.evaluation.reference import AGAINST, ReferenceRow

TITLES = {
    "l1": "L1 ↓", "l2": "L2 ↓", "psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓",
    "clip_i": "CLIP-I ↑", "dino": "DINO ↑", "clip_t": "CLIP-T ↑",
}  # fmt: skip


def reference_to_markdown(
    rows: Sequence[ReferenceRow], counts: Mapping[str, Mapping[str, int]]
) -> str:
    """Tables of averages: against the target, against the source, against the text.

    Args:
      rows: of all methods.
      counts: method -> how many pictures are measured, missing and unreadable.
    """
    parts = []
    for language in dict.fromkeys(row.language for row in rows):
        group = [row for row in rows if row.language == language]
        for against in (*AGAINST, "text"):
            of = [row for row in group if _against(row.column) == against]
            if of:
                title = " ".join(filter(None, (language.upper(), f"against the {against}")))
                parts += [f"## {title}", _table(of)]
    header = ["method", "measured", "missing", "unreadable"]
    lines = [[method, *(str(n[name]) for name in header[1:])] for method, n in counts.items()]
    parts += ["## Pictures", format_table(header, lines), *_remarks(rows)]
    return join_parts(parts)


def _against(column: str) -> str:
    first = column.partition("_")[0]
    return first if first in AGAINST else "text"


def _measure(column: str) -> str:
    return column.partition("_")[2] if _against(column) != "text" else column


def _table(rows: Sequence[ReferenceRow]) -> str:
    columns = list(dict.fromkeys(row.column for row in rows))
    averages = {(row.method, row.column): row.average for row in rows}
    header = ["method", *(TITLES.get(_measure(column), column) for column in columns)]
    lines = [
        [method, *(format_number(averages.get((method, column))) for column in columns)]
        for method in dict.fromkeys(row.method for row in rows)
    ]
    return format_table(header, lines)


def _remarks(rows: Sequence[ReferenceRow]) -> list[str]:
    """Describe what the averages leave out."""
    remarks = []
    for row in rows:
        against = _against(row.column)
        if row.identical:
            remarks.append(
                f"- {row.method}: {row.identical} of {row.samples} pictures are equal to the"
                f" {against}, pixel by pixel; their PSNR is infinite and in no mean."
            )
        missing = [task for task, mean in row.tasks.items() if mean is None]
        if missing:
            name = TITLES.get(_measure(row.column), row.column)
            remarks.append(
                f"- {row.method}, {name} ({against}): {NOTHING}, for {', '.join(missing)} has none."
            )
    return ["\n".join(remarks)] if remarks else []
