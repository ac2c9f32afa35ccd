"""Comparisons of two methods, or of two judges, as text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from step1x_jax.evaluation.comparison import Comparison, Difference
from step1x_jax.evaluation.judge_facts import describe_judges
from step1x_jax.evaluation.markdown import (
    format_interval,
    format_number,
    format_table,
    join_parts,
)

AVERAGE = "average"
READING = """\
All numbers are of samples that both have scores of. The difference is the first minus the second;
[low, high] is its 95 % interval, samples drawn again in pairs within tasks: where 0 is outside,
this benchmark tells them apart. Win, tie and loss count samples."""


def comparison_table(comparison: Comparison, first: str, second: str, measure: str) -> str:
    """First against second by task; the average in the last line."""
    header = ["task", first, second, "difference", "95 %", "win/tie/loss", "n", "Spearman"]
    rows = [_row(task, one, measure) for task, one in comparison.tasks.items()]
    rows.append(_row(AVERAGE, comparison.average, measure))
    table = format_table(header, rows)
    if comparison.empty:
        table += f"\n\nNo average: no common score in {', '.join(comparison.empty)}."
    return table


def _row(name: str, one: Difference, measure: str) -> list[str]:
    return [
        name,
        format_number(one.first.get(measure)),
        format_number(one.second.get(measure)),
        format_number(one.means.get(measure), sign=True),
        format_interval(one.intervals.get(measure)),
        f"{one.wins}/{one.ties}/{one.losses}",
        str(one.n),
        format_number(one.rank_correlation),
    ]


@dataclasses.dataclass(frozen=True)
class Section:
    """Two methods in a language and a subset of samples."""

    language: str
    subset: str
    comparison: Comparison


def sections_to_markdown(
    sections: Sequence[Section],
    first: str,
    second: str,
    measures: Sequence[str],
    judges: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> str:
    """Format for each section the average in all measures, then the most important one by task.

    Args:
      sections: in this order.
      first: name of the first method.
      second: of the second.
      measures: the benchmark's.
      judges: as of `describe_judges`.
    """
    parts = [f"# {first} against {second}", READING]
    for section in sections:
        parts.append(f"## {', '.join(filter(None, [section.language, section.subset]))}")
        average = section.comparison.average
        rows = [
            [
                measure,
                format_number(average.first.get(measure)),
                format_number(average.second.get(measure)),
                format_number(average.means.get(measure), sign=True),
                format_interval(average.intervals.get(measure)),
            ]
            for measure in measures
        ]
        parts.append(format_table([AVERAGE, first, second, "difference", "95 %"], rows))
        parts.append(f"{measures[-1]} by task:")
        parts.append(comparison_table(section.comparison, first, second, measures[-1]))
    return join_parts([*parts, "## Judge", describe_judges(judges)])


def sections_to_json(sections: Sequence[Section], first: str, second: str) -> dict[str, Any]:
    """Return all sections as values of JSON."""
    return {
        "first": first,
        "second": second,
        "sections": [dataclasses.asdict(section) for section in sections],
    }
