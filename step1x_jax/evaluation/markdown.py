"""Tables in Markdown, and the format of their numbers: rounded here alone."""

from collections.abc import Iterable, Sequence

DECIMALS = 3
NOTHING = "–"  # in place of a number that is not there


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a line of names above."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(one) for one in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def format_number(number: float | None, *, sign: bool = False) -> str:
    """Format a number with DECIMALS; with `sign`, + or - before it."""
    return NOTHING if number is None else f"{number:{'+' if sign else ''}.{DECIMALS}f}"


def format_interval(ends: tuple[float, float] | None) -> str:
    """[low, high]."""
    return NOTHING if ends is None else f"[{format_number(ends[0])}, {format_number(ends[1])}]"


def join_parts(parts: Iterable[str]) -> str:
    """Paragraphs, tables and headings of a page, without those that are empty."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
