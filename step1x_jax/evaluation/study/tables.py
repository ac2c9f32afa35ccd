"""A study's scores and what came of its exports, to be read and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from step1x_jax.evaluation.markdown import (
    NOTHING,
    format_interval,
    format_number,
    format_table,
    join_parts,
)
from step1x_jax.evaluation.published import read_published
from step1x_jax.evaluation.study.answers import Answers
from step1x_jax.evaluation.study.key import StudyKey
from step1x_jax.evaluation.study.score import MeanScore, StudyRow

PEOPLE, MEASURE = "people", "preference"  # of published studies: judge and score


def study_to_markdown(key: StudyKey, answers: Answers, rows: Sequence[StudyRow]) -> str:
    """The report: a table for each language and subset, what is missing, what others published."""
    parts = [
        f"Study {key.study}: {len(answers.ratings)} of {len(key.participants)} participants,"
        f" {len(key.samples)} samples of {key.benchmark}, {len(key.methods)} methods. Means per"
        " task over participants, then over tasks (2 worst to 10 excellent); 95 % intervals by"
        " resampling participants."
    ]
    for language, subset in dict.fromkeys((row.language, row.subset) for row in rows):
        group = [row for row in rows if (row.language, row.subset) == (language, subset)]
        parts += [f"## {' '.join(filter(None, (language.upper(), subset)))}", _table(group)]
    parts += ["## Exports", _exports(key, answers)]
    if published := _published(key.benchmark):
        parts += ["## Published elsewhere", published]
    return join_parts(parts)


def study_to_json(key: StudyKey, answers: Answers, rows: Sequence[StudyRow]) -> dict[str, Any]:
    """The same as JSON values, unrounded."""
    return {
        "study": key.study,
        "benchmark": key.benchmark,
        "source": key.source,
        "samples": len(key.samples),
        "left_out": key.left_out,
        "rows": [dataclasses.asdict(row) for row in rows],
        "exports": [dataclasses.asdict(note) for note in answers.notes],
        "absent": answers.absent,
    }


def _table(rows: Sequence[StudyRow]) -> str:
    tasks = list(rows[0].tasks)
    lines = []
    for row in rows:
        missing = [task for task, score in row.tasks.items() if score is None]
        average = f"{NOTHING} (no ratings: {', '.join(missing)})" if missing else _mean(row.average)
        counts = str(row.participants), str(row.ratings)
        means = [_mean(row.tasks[task]) for task in tasks]
        lines.append([row.method, average, _interval(row.average), *counts, *means])
    return format_table(["method", "average", "95 %", "people", "ratings", *tasks], lines)


def _mean(score: MeanScore | None) -> str:
    return format_number(score.mean if score else None)


def _interval(score: MeanScore | None) -> str:
    if score is None or score.low is None or score.high is None:
        return NOTHING
    return format_interval((score.low, score.high))


def _exports(key: StudyKey, answers: Answers) -> str:
    lines = []
    for note in answers.notes:
        if not note.used:
            lines.append(
                f"- {note.file}: another export of {note.participant}, not counted"
                f" ({note.changed} ratings differ from the one that counts)."
            )
        elif note.rated < note.dealt:
            lines.append(
                f"- {note.file}: {note.participant} rated {note.rated} of {note.dealt} pictures."
            )
    if answers.absent:
        lines.append(f"- No answers of {', '.join(answers.absent)}.")
    for method, count in key.left_out.items():
        if count:
            lines.append(f"- {count} samples are not in the study: {method} has no picture.")
    return "\n".join(lines) or "All participants rated all their pictures."


def _published(benchmark: str) -> str:
    """Studies of others: with other people, samples and pages."""
    lines = [
        [row.method, row.subset, format_number(row.scores[MEASURE]), row.date, row.source]
        for row in read_published()
        if row.judge == PEOPLE and row.benchmark == benchmark and MEASURE in row.scores
    ]
    return format_table(["method", "subset", "average", "date", "source"], lines) if lines else ""
