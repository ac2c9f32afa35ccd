"""A report as Markdown to read, as CSV and as JSON to compute with.

Numbers are rounded in Markdown alone.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from step1x_jax.evaluation.comparison import Comparison, Difference
from step1x_jax.evaluation.published import PublishedRow, read_published
from step1x_jax.evaluation.report import Report, Table
from step1x_jax.evaluation.statistics import WITHOUT_PICTURE, Cell, measures_of

DECIMALS = 3
NOTHING = "–"
AVERAGE = "average"
MAY_DIFFER = ("date",)  # of what is known of a judge, between methods
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


def to_markdown(report: Report) -> str:
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
            comparison_markdown(agreement.comparison, agreement.first, agreement.second, main)
        )
    failures = _failures(report)
    if failures:
        parts += ["## What has no score", failures]
    published = published_rows(report)
    if published:
        parts += ["## Published elsewhere, not measured here", _published(published)]
        parts.append(_published_by_task(published))
    parts += ["## Judges", _judges(report)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _title(table: Table) -> str:
    return ", ".join(filter(None, [table.judge, table.language, SUBSETS[table.subset]]))


def _averages(table: Table, report: Report) -> str:
    measures = measures_of(report.benchmark)
    noisy = any(summary.noise for summary in table.methods.values())
    header = ["method", *measures, f"{measures[-1]} 95 %", "n", "coverage"]
    header += [f"{measures[-1]} between repeats"] if noisy else []
    rows = []
    for name, summary in table.methods.items():
        cell = summary.average
        numbers = [_number(cell, measure) for measure in measures]
        if summary.empty:
            numbers[-1] = f"absent: no score in {', '.join(summary.empty)}"
        low_high = _interval(cell.intervals.get(measures[-1]))
        row = [name, *numbers, low_high, str(cell.n), _coverage(cell)]
        if noisy:
            noise = summary.noise
            row.append(f"± {noise[measures[-1]]:.{DECIMALS}f}" if noise else NOTHING)
        rows.append(row)
    return _markdown_table(header, rows)


def _by_task(table: Table, measure: str) -> str:
    tasks = list(dict.fromkeys(t for summary in table.methods.values() for t in summary.tasks))
    rows = [
        [
            name,
            *(_number(summary.tasks[t], measure) if t in summary.tasks else NOTHING for t in tasks),
            _number(summary.average, measure),
        ]
        for name, summary in table.methods.items()
    ]
    return _markdown_table(["method", *tasks, AVERAGE], rows)


def _number(cell: Cell, measure: str) -> str:
    mean = cell.means.get(measure)
    text = NOTHING if mean is None else f"{mean:.{DECIMALS}f}"
    return f"{text} ({cell.judge_failures} failed)" if cell.judge_failures else text


def _interval(ends: tuple[float, float] | None) -> str:
    return NOTHING if ends is None else f"[{ends[0]:.{DECIMALS}f}, {ends[1]:.{DECIMALS}f}]"


def _coverage(cell: Cell) -> str:
    share = f" ({cell.returned / cell.total:.1%})" if cell.total else ""
    return f"{cell.returned}/{cell.total}{share}"


def _failures(report: Report) -> str:
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
    return _markdown_table(header, rows) if rows else ""


def published_rows(report: Report) -> list[PublishedRow]:
    """Those of the report's benchmark, in its languages."""
    languages = {table.language for table in report.tables}
    return [
        row
        for row in read_published()
        if row.benchmark == report.benchmark.name
        and (not row.language or row.language in languages)
    ]


def _published(rows: Sequence[PublishedRow]) -> str:
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
    return _markdown_table(header, lines)


def _published_by_task(rows: Sequence[PublishedRow]) -> str:
    tasks = list(dict.fromkeys(task for row in rows for task in row.tasks))
    lines = [
        [row.method, row.language, row.judge, *(_as_published(row.tasks.get(t)) for t in tasks)]
        for row in rows
        if row.tasks
    ]
    return _markdown_table(["method", "language", "judge", *tasks], lines) if lines else ""


def _as_published(number: float | None) -> str:
    """With three decimals, or the two that some publish."""
    return NOTHING if number is None else f"{number:.3f}".removesuffix("0")


def _judges(report: Report) -> str:
    """What is known of each judge; of what differs between methods, each method's value."""
    lines = []
    for judge, methods in report.judges.items():
        lines.append(f"- **{judge}**: {'; '.join(_facts(methods))}")
    return "\n".join(lines)


def _facts(methods: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    names = dict.fromkeys(name for facts in methods.values() for name in facts)
    for name in names:
        values = {method: facts.get(name) for method, facts in methods.items()}
        if all(value == next(iter(values.values())) for value in values.values()):
            yield f"{name} {_shown(next(iter(values.values())))}"
        else:
            each = ", ".join(f"{_shown(value)} ({method})" for method, value in values.items())
            yield f"{name} {each}" if name in MAY_DIFFER else f"**{name} differs**: {each}"


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)


def comparison_markdown(comparison: Comparison, first: str, second: str, measure: str) -> str:
    """First against second by task; the average in the last line."""
    header = ["task", first, second, "difference", "95 %", "win/tie/loss", "n", "Spearman"]
    rows = [_difference_row(task, one, measure) for task, one in comparison.tasks.items()]
    rows.append(_difference_row(AVERAGE, comparison.average, measure))
    table = _markdown_table(header, rows)
    if comparison.empty:
        table += f"\n\nNo average: no common score in {', '.join(comparison.empty)}."
    return table


def _difference_row(name: str, one: Difference, measure: str) -> list[str]:
    numbers = [NOTHING] * 3
    if one.means:
        numbers = [f"{x[measure]:.{DECIMALS}f}" for x in (one.first, one.second)]
        numbers.append(f"{one.means[measure]:+.{DECIMALS}f}")
    rank = one.rank_correlation
    return [
        name,
        *numbers,
        _interval(one.intervals.get(measure)),
        f"{one.wins}/{one.ties}/{one.losses}",
        str(one.n),
        NOTHING if rank is None else f"{rank:.{DECIMALS}f}",
    ]


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell_text(one) for one in line)} |" for line in lines)


def _cell_text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def to_csv(report: Report) -> str:
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


def to_json(report: Report) -> dict[str, Any]:
    """All of a report as values of JSON."""
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
