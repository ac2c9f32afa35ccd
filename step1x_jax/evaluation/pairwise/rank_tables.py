"""Rankings as markdown for people, as CSV for spreadsheets and as JSON for programs.

Every dimension stands there, the joint score beside them, and published rows apart.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from step1x_jax.evaluation.pairwise.orders import OrderStatistics
from step1x_jax.evaluation.pairwise.published import Published, PublishedRow
from step1x_jax.evaluation.pairwise.ranking import JOINTLY, Score, Table

MISSING = ("missing", "unreadable")  # pictures of a method, as judge.json counts them
COLUMNS = (
    "rows", "dimension", "method", "elo", "low", "high", "matches", "wins", "ties", "losses",
    "judged", "failed", *MISSING,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What is to be shown.

    Attributes:
      tables: of the dimensions, and jointly.
      judges: name -> what is to be known of it (judge.json).
      missing: method -> how many pictures are missing, and unreadable.
      published: the leaderboard, if the verdicts are about its benchmark.
    """

    tables: Sequence[Table]
    judges: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, Mapping[str, int]]
    published: Published | None = None


def to_markdown(ranking: Ranking) -> str:
    """The whole as text."""
    parts = ["# Ranking by pairwise verdicts\n", _overview(ranking)]
    for table in ranking.tables:
        title = "All dimensions jointly" if table.dimension == JOINTLY else table.dimension
        parts.append(
            f"## {title}\n\n{_scores(table, ranking.missing)}\n{describe_orders(table.orders)}\n"
        )
    if ranking.published is not None:
        parts.append(_published(ranking.published))
    for name, facts in ranking.judges.items():
        said = "; ".join(f"{key} {_fact(value)}" for key, value in facts.items() if value)
        parts.append(f"Judge {name}: {said}.\n")
    parts.append(
        "Elo: 1000 is the mean of the methods compared, 400 points are odds of ten to one."
        " Intervals: 95 %, by drawing samples again. Scores hold among these methods and for this"
        " judge alone.\n"
    )
    return "\n".join(parts)


def _overview(ranking: Ranking) -> str:
    """Elo of all methods in all dimensions, by falling joint score."""
    cells = {
        (table.dimension, score.method): _interval(score)
        for table in ranking.tables
        for score in table.scores
    }
    order = [score.method for score in ranking.tables[-1].scores]
    names = [table.dimension for table in ranking.tables]
    rows = [[method, *(cells.get((name, method), "-") for name in names)] for method in order]
    return markdown_table(["method", *names], rows)


def _interval(score: Score) -> str:
    return f"{score.elo:.0f} [{score.low:.0f}, {score.high:.0f}]"


def _scores(table: Table, missing: Mapping[str, Mapping[str, int]]) -> str:
    header = ["", "method", "Elo", "95 %", "matches", "won", "tied", "lost", "judged", "failed"]
    rows = [
        [
            str(number),
            score.method,
            f"{score.elo:.1f}",
            f"[{score.low:.1f}, {score.high:.1f}]",
            *map(str, (score.matches, score.wins, score.ties, score.losses)),
            *map(str, (score.judged, score.failed)),
            *(str(missing.get(score.method, {}).get(name, "-")) for name in MISSING),
        ]
        for number, score in enumerate(table.scores, 1)
    ]
    return markdown_table([*header, *MISSING], rows) + f"\nsamples: {table.keys}."


def describe_orders(orders: OrderStatistics) -> str:
    """What a judge's verdicts are like, in words."""
    why = ", ".join(f"{name} {count}" for name, count in sorted(orders.failures.items()))
    text = (
        f"verdicts: {orders.verdicts}, of these ties: {_share(orders.ties, orders.verdicts)};"
        f" without a verdict: {orders.failed}{f' ({why})' if why else ''};"
        f" the first picture wins {_percent(orders.first_rate)} of the decisive ones (fair: 50 %);"
        f" pairs judged in both orders: {orders.both_orders},"
        f" these agree in {_percent(orders.agreement)}; pairs judged in one order:"
        f" {orders.single}"
    )
    if orders.identical:
        text += f"; pairs of the same file, which are ties unasked: {orders.identical}"
    return text + "."


def _share(of: int, total: int) -> str:
    return f"{of} ({_percent(of / total if total else None)})"


def _percent(share: float | None) -> str:
    return "- %" if share is None else f"{100 * share:.1f} %"


def _fact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _published(published: Published) -> str:
    names = (*published.judges, JOINTLY)
    rows = [
        [row.model, *map(_published_cell, _elos(row, names)), str(row.samples), str(row.arena_elo)]
        for row in published.rows
    ]
    judges = ", ".join(f"{name} {judge}" for name, judge in published.judges.items())
    return (
        f"## Published, not to be compared with the above\n\n"
        f"{markdown_table(['model', *names, 'samples', 'arena'], rows)}\n"
        f"{published.benchmark}; judges: {judges}; {published.form}; {published.source}.\n"
    )


def _elos(row: PublishedRow, names: Iterable[str]) -> list[tuple[int, int, int]]:
    return [getattr(row, name) for name in names]


def _published_cell(elo: tuple[int, int, int]) -> str:
    return f"{elo[0]} [{elo[0] + elo[1]}, {elo[0] + elo[2]}]"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; signs that would end a cell are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def to_csv(ranking: Ranking) -> str:
    """A row for each method and dimension; `rows` tells measured ones from published ones."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in ranking.tables:
        for score in table.scores:
            row = {"rows": "measured", "dimension": table.dimension, "matches": score.matches}
            row |= dataclasses.asdict(score) | dict(ranking.missing.get(score.method, {}))
            writer.writerow({name: row[name] for name in COLUMNS if name in row})
    if ranking.published is not None:
        for name in (*ranking.published.judges, JOINTLY):
            for model in ranking.published.rows:
                elo, low, high = getattr(model, name)
                row = {"rows": "published", "dimension": name, "method": model.model}
                writer.writerow(row | {"elo": elo, "low": elo + low, "high": elo + high})
    return stream.getvalue()


def to_json(ranking: Ranking) -> dict[str, Any]:
    """All of it as JSON values."""
    return {
        "tables": [
            {
                "dimension": table.dimension,
                "keys": table.keys,
                "orders": dataclasses.asdict(table.orders),
                "scores": [
                    {**dataclasses.asdict(score), "matches": score.matches}
                    for score in table.scores
                ],
            }
            for table in ranking.tables
        ],
        "missing": {method: dict(counts) for method, counts in ranking.missing.items()},
        "judges": {name: dict(facts) for name, facts in ranking.judges.items()},
        "published": ranking.published and dataclasses.asdict(ranking.published),
    }
