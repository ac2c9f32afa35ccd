"""A judge checked against people, as Markdown to read, and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from step1x_jax.evaluation.judge_facts import describe_judges
from step1x_jax.evaluation.markdown import NOTHING, format_table, join_parts
from step1x_jax.evaluation.pairwise.judge_check import CheckTable, Share
from step1x_jax.evaluation.pairwise.rank_tables import describe_orders

HEADER = (
    "dimension", "pairs", "decided", "accuracy", "right", "tied", "wrong", "first picture",
    "people's ties", "of these found",
)  # fmt: skip
READING = """\
Accuracy: how often a verdict names the picture that people prefer, a tie being none; to be
compared with accuracies from one order. Right, tied, wrong: pairs by both orders together, where
verdicts that differ are a tie. First picture: how often the first one wins; a judge
without position bias is at 50 %.
"""


def to_markdown(tables: Sequence[CheckTable], judge: str, facts: Mapping[str, Any]) -> str:
    """Format all tables, and the facts about the judge."""
    rows = [
        [
            table.dimension,
            str(table.pairs),
            str(table.decided),
            _percent(table.accuracy),
            _percent(table.right),
            *(f"{100 * n / table.decided:.1f} %" if table.decided else NOTHING
              for n in (table.tied, table.wrong)),
            _percent(table.first_rate),
            str(table.people_ties),
            str(table.ties_found),
        ]
        for table in tables
    ]  # fmt: skip
    parts = [f"# {judge} against people", READING, format_table(HEADER, rows)]
    for table in tables:
        parts.append(f"{table.dimension}: {describe_orders(table.orders)}")
        if table.tasks:
            tasks = [
                [task, str(count), f"{100 * accuracy:.1f} %"]
                for task, (count, accuracy) in sorted(table.tasks.items())
            ]
            parts.append(format_table([table.dimension, "decided", "accuracy"], tasks))
    parts.append(describe_judges({judge: {"": facts}}))
    return join_parts(parts)


def _percent(share: Share | None) -> str:
    if share is None:
        return NOTHING
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def to_json(tables: Sequence[CheckTable], judge: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables and facts as JSON values."""
    return {
        "judge": judge,
        "facts": dict(facts),
        "dimensions": [dataclasses.asdict(table) for table in tables],
    }
