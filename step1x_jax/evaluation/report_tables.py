"""A report as Markdown to read, as CSV and as JSON to compute with.

Numbers are rounded in Markdown alone.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from step1x_jax.evaluation.comparison_tables import AVERAGE, comparison_table
from step1x_jax.evaluation.judge_facts import describe_judges
from step1x_jax.evaluation.markdown import (
    NOTHING,
    format_interval,
    format_number,
    format_table,
    join_parts,
)
from step1x_jax.evaluation.published import PublishedScores, read_published
from step1x_jax.evaluation.report import BenchmarkReport, MethodTable
from step1x_jax.evaluation.statistics import WITHOUT_PICTURE, Cell, measures_of

SUBSETS = {
    "full": "full set",
    "intersection": "intersection",
    "common": "what all methods have",
}
COLUMNS = (
    "judge", "language", "subset", "method", "task", "measure", "mean", "low", "high", "n",
    "returned", "total", "missing", "unreadable", "unparsable", "refused", "failed",
)  # fmt: skip
READING = """\
A task's cell is the mean over its samples, the average the plain mean over {}; [low, high] is
its 95 % interval, samples drawn again within tasks. n: samples with scores; coverage: pictures that
the method returned. "(2 failed)": so many judgements of pictures that are there have no valid
scores; they are left out.
"""


def to_markdown(report: BenchmarkReport) -> str:
    """Tables of each judge, language and subset, published rows apart, what is known of judges."""
    parts = [f"# {report.benchmark.name}", READING.format(report.benchmark.mean_of)]
    main = measures_of(report.benchmark)[-1]
    for table in report.tables:
        parts.append(f"## {_title(table)}")
        parts.append(_averages(table, report))
        parts.append(f"{main} by task:")
        parts.append(_by_task(table, main))
    for agreement in report.agreements:
        where = f", {agreement.language}" if agreement.language else ""
        parts.append(
            f"## {agreement.method}{where}: {agreement.first} minus {agreement.second}, on the same"
            " pictures"
        )
        parts.append(
            comparison_table(agreement.comparison, agreement.first, agreement.second, main)
        )
    failures = _failures(report)
    if failures:
        parts += ["## What has no score", failures]
    published = published_rows(report)
    if published:
        parts += ["## Published elsewhere, not measured here", _published(published)]
        parts.append(_published_by_task(published))
    parts += ["## Judges", describe_judges(report.judges)]
    return join_parts(parts)


def _title(table: MethodTable) -> str:
    return ", ".join(filter(None, [table.judge, table.language, SUBSETS[table.subset]]))


def _averages(table: MethodTable, report: BenchmarkReport) -> str:
    measures = measures_of(report.benchmark)
    noisy = any(summary.noise for summary in table.methods.values())
    header = ["method", *measures, f"{measures[-1]} 95 %", "n", "coverage"]
    header += [f"{measures[-1]} between repeats"] if noisy else []
    rows = []
    for name, summary in table.methods.items():
        cell = summary.average
        numbers = [_number(cell, measure) for measure in measures]
        if not cell.means:
            numbers[-1] = f"absent: no score in {', '.join(summary.empty) or 'any task'}"
        low_high = format_interval(cell.intervals.get(measures[-1]))
        row = [name, *numbers, low_high, str(cell.n), _coverage(cell)]
        if noisy:
            noise = summary.noise
            row.append(f"± {format_number(noise[measures[-1]])}" if noise else NOTHING)
        rows.append(row)
    return format_table(header, rows)


def _by_task(table: MethodTable, measure: str) -> str:
    tasks = list(dict.fromkeys(t for summary in table.methods.values() for t in summary.tasks))
    rows = [
        [
            name,
            *(_number(summary.tasks[t], measure) if t in summary.tasks else NOTHING for t in tasks),
            _number(summary.average, measure),
        ]
        for name, summary in table.methods.items()
    ]
    return format_table(["method", *tasks, AVERAGE], rows)


def _number(cell: Cell, measure: str) -> str:
    text = format_number(cell.means.get(measure))
    return f"{text} ({cell.judge_failures} failed)" if cell.judge_failures else text


def _coverage(cell: Cell) -> str:
    share = f" ({cell.returned / cell.total:.1%})" if cell.total else ""
    return f"{cell.returned}/{cell.total}{share}"


def _failures(report: BenchmarkReport) -> str:
    rows = []
    for table in report.tables:
        if table.subset != "full":
            continue
        for name, summary in table.methods.items():
            for status, count in summary.average.statuses.items():
                whose = "picture" if status in WITHOUT_PICTURE else "judge"
                tasks = [t for t, cell in summary.tasks.items() if cell.statuses.get(status)]
                language = table.language or NOTHING
                rows.append(
                    [table.judge, language, name, whose, status, str(count), ", ".join(tasks)]
                )
    header = ["judge", "language", "method", "whose", "why", "judgements", "tasks"]
    return format_table(header, rows) if rows else ""


def published_rows(report: BenchmarkReport) -> list[PublishedScores]:
    """Return the published rows of the report's benchmark, in its languages."""
    languages = {table.language for table in report.tables}
    return [
        row
        for row in read_published()
        if row.benchmark == report.benchmark.name
        and (not row.language or row.language in languages)
    ]


def _published(rows: Sequence[PublishedScores]) -> str:
    measures = list(dict.fromkeys(name for row in rows for name in row.scores))
    header = ["method", "language", "subset", "judge", *measures, "protocol", "date", "source"]
    lines = [
        [
            row.method,
            row.language or "not stated",
            SUBSETS[row.subset],
            row.judge,
            *(_as_published(row.scores.get(measure)) for measure in measures),
            row.protocol,
            row.date,
            row.source,
        ]
        for row in rows
    ]
    return format_table(header, lines)


def _published_by_task(rows: Sequence[PublishedScores]) -> str:
    tasks = list(dict.fromkeys(task for row in rows for task in row.tasks))
    lines = [
        [row.method, row.language, row.judge, *(_as_published(row.tasks.get(t)) for t in tasks)]
        for row in rows
        if row.tasks
    ]
    return format_table(["method", "language", "judge", *tasks], lines) if lines else ""


def _as_published(number: float | None) -> str:
    """Format with three decimals, or the two that some publish."""
    return NOTHING if number is None else f"{number:.3f}".removesuffix("0")


def to_csv(report: BenchmarkReport) -> str:
    """One line for each mean that there is, and for what should have had one; COLUMNS."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval=0)
    writer.writeheader()
    for table in report.tables:
        for method, summary in table.methods.items():
            for task, cell in {**summary.tasks, AVERAGE: summary.average}.items():
                for measure in measures_of(report.benchmark):
                    low, high = cell.intervals.get(measure, ("", ""))
                    numbers = (cell.means.get(measure, ""), low, high)
                    counts = (cell.n, cell.returned, cell.total)
                    where = (table.judge, table.language, table.subset, method, task, measure)
                    named = dict(zip(COLUMNS, (*where, *numbers, *counts), strict=False))
                    writer.writerow(named | {str(name): n for name, n in cell.statuses.items()})
    return text.getvalue()


def to_json(report: BenchmarkReport) -> dict[str, Any]:
    """Return a report as values of JSON."""
    return {
        "benchmark": report.benchmark.name,
        "tables": [
            {
                "judge": table.judge,
                "language": table.language,
                "subset": table.subset,
                "methods": {name: dataclasses.asdict(one) for name, one in table.methods.items()},
            }
            for table in report.tables
        ],
        "agreements": [dataclasses.asdict(one) for one in report.agreements],
        "published": [dataclasses.asdict(row) for row in published_rows(report)],
        "judges": {name: dict(methods) for name, methods in report.judges.items()},
    }
