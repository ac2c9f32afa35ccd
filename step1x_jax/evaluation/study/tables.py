"""A study's scores and what came of its exports, to be read and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from step1x_jax.evaluation.study.answers import Answers
from step1x_jax.evaluation.study.key import StudyKey
from step1x_jax.evaluation.study.score import Score, StudyRow


def study_to_markdown(key: StudyKey, answers: Answers, rows: Sequence[StudyRow]) -> str:
    """The report: a table for each language and subset, then what is missing."""
    parts = [
        f"Study {key.study}: {len(answers.ratings)} of {len(key.participants)} participants, "
        f"{len(key.samples)} samples of {key.benchmark}, {len(key.methods)} methods. "
        "Means over participants per task, then over tasks (2 worst to 10 excellent); "
        "95 % intervals by resampling participants."
    ]
    for language, subset in dict.fromkeys((row.language, row.subset) for row in rows):
        group = [row for row in rows if (row.language, row.subset) == (language, subset)]
        title = " ".join(filter(None, (language.upper(), subset)))
        parts.append(f"## {title}\n\n" + _table(group))
    return "\n\n".join([*parts, _exports(key, answers)]) + "\n"


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
    head = ["method", "average", "95 %", "people", "ratings", *tasks]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        average = _mean(row.average)
        missing = [task for task, score in row.tasks.items() if score is None]
        if missing:
            average = f"- (no ratings: {', '.join(missing)})"
        lines.append(
            [
                row.method,
                average,
                _interval(row.average),
                str(row.participants),
                str(row.ratings),
                *(_mean(row.tasks[task]) for task in tasks),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(score: Score | None) -> str:
    return "-" if score is None else f"{score.mean:.3f}"


def _interval(score: Score | None) -> str:
    if score is None or score.low is None or score.high is None:
        return "-"
    return f"{score.low:.3f} to {score.high:.3f}"


def _exports(key: StudyKey, answers: Answers) -> str:
    lines = []
    for note in answers.notes:
        if not note.used:
            lines.append(
                f"- {note.file}: an earlier export of {note.participant}, not counted"
                f" ({note.changed} ratings were changed later)."
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
    return "## Exports\n\n" + ("\n".join(lines) or "All participants rated all their pictures.")
