"""Rankings as markdown for people, as CSV for spreadsheets and as JSON for programs.

Every dimension is there, the joint score beside them, and published rows apart.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from step1x_jax.evaluation.judge_facts import describe_judges
from step1x_jax.evaluation.markdown import NOTHING, format_table, join_parts
from step1x_jax.evaluation.pairwise.orders import OrderStatistics
from step1x_jax.evaluation.pairwise.published import LeaderboardRow, PublishedLeaderboard
from step1x_jax.evaluation.pairwise.ranking import JOINTLY, RankedMethod, RankingTable

MISSING = ("missing", "unreadable")  # pictures of a method, as judge.json counts them
READING = """\
Elo: 1000 is the mean of the methods that were compared, 400 points are odds of ten to one; in
brackets the 95 % interval, samples drawn again with all their dimensions. Scores hold among these
methods and for these judges alone; read the dimensions, not the joint score alone. Matches: both
orders of a pair are one, a tie if their verdicts differ; judged and failed count each order.
"""
COLUMNS = (
    "rows", "dimension", "method", "elo", "low", "high", "matches", "wins", "ties", "losses",
    "judged", "failed", *MISSING,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The contents of the tables.

    Attributes:
      tables: of the dimensions, and jointly.
      judges: name -> what is to be known of it (judge.json).
      missing: method -> how many pictures are missing, and unreadable.
      published: the leaderboard, if the verdicts are about its benchmark.
    """

    tables: Sequence[RankingTable]
    judges: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, Mapping[str, int]]
    published: PublishedLeaderboard | None = None


def to_markdown(ranking: Ranking) -> str:
    """An overview, a table of each dimension and of all jointly, published rows, the judges."""
    parts = ["# Ranking by pairs", READING, _overview(ranking)]
    for table in ranking.tables:
        parts.append(f"## {_title(table)}")
        if table.scores:
            parts.append(_scores(table, ranking.missing))
        parts.append(f"Samples: {table.keys}. {describe_orders(table.orders)}")
    if ranking.published is not None:
        parts += ["## Published elsewhere, not measured here", _published(ranking.published)]
    facts = {name: {JOINTLY: dict(of)} for name, of in ranking.judges.items()}
    parts += ["## Judges", describe_judges(facts)]
    return join_parts(parts)


def _title(table: RankingTable) -> str:
    return "all dimensions jointly" if table.dimension == JOINTLY else table.dimension


def _overview(ranking: Ranking) -> str:
    """Elo of all methods in all dimensions, by falling joint score."""
    cells = {
        (table.dimension, score.method): _interval(score)
        for table in ranking.tables
        for score in table.scores
    }
    order = [score.method for score in ranking.tables[-1].scores]
    names = [table.dimension for table in ranking.tables]
    rows = [[method, *(cells.get((name, method), NOTHING) for name in names)] for method in order]
    return format_table(["method", *names], rows)


def _interval(score: RankedMethod) -> str:
    return f"{score.elo:.0f} [{score.low:.0f}, {score.high:.0f}]"


def _scores(table: RankingTable, missing: Mapping[str, Mapping[str, int]]) -> str:
    header = ["", "method", "Elo", "95 %", "matches", "won", "tied", "lost", "judged", "failed"]
    rows = [
        [
            str(number),
            score.method,
            f"{score.elo:.1f}",
            f"[{score.low:.1f}, {score.high:.1f}]",
            *map(str, (score.matches, score.wins, score.ties, score.losses)),
            *map(str, (score.judged, score.failed)),
            *(str(missing.get(score.method, {}).get(name, NOTHING)) for name in MISSING),
        ]
        for number, score in enumerate(table.scores, 1)
    ]
    return format_table([*header, *MISSING], rows)


def describe_orders(orders: OrderStatistics) -> str:
    """Describe a judge's verdicts in words."""
    why = ", ".join(f"{name} {count}" for name, count in sorted(orders.failures.items()))
    text = (
        f"Verdicts: {orders.verdicts}, of these ties: {_share(orders.ties, orders.verdicts)};"
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
    return NOTHING if share is None else f"{100 * share:.1f} %"


def _published(published: PublishedLeaderboard) -> str:
    names = (*published.judges, JOINTLY)
    rows = [
        [row.model, *map(_published_cell, _elos(row, names)), str(row.samples), str(row.arena_elo)]
        for row in published.rows
    ]
    judges = ", ".join(f"{name} {judge}" for name, judge in published.judges.items())
    return (
        f"{format_table(['model', *names, 'samples', 'arena'], rows)}\n\n"
        f"{published.benchmark}; judges: {judges}; {published.form}; {published.source}."
    )


def _elos(row: LeaderboardRow, names: Iterable[str]) -> list[tuple[int, int, int]]:
    return [getattr(row, name) for name in names]


def _published_cell(elo: tuple[int, int, int]) -> str:
    return f"{elo[0]} [{elo[0] + elo[1]}, {elo[0] + elo[2]}]"


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
    """Return the ranking as JSON values."""
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
