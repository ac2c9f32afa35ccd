"""From ratings to a table: mean per task over participants, then over tasks, with intervals."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from step1x_jax.evaluation.benchmarks import BENCHMARKS
from step1x_jax.evaluation.study.answers import Answers
from step1x_jax.evaluation.study.key import StudyKey

POINTS = 2.0  # of a level: worst 2, poor 4, fair 6, good 8, excellent 10
RESAMPLES = 10_000
SEED = 0
FEWEST_DEFINED = 0.95  # of the resamples, or there is no interval

Subset = Literal["full", "intersection"]


@dataclasses.dataclass(frozen=True)
class MeanScore:
    """A mean, and its 95 % interval over people, if there is one."""

    mean: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class StudyRow:
    """A method's scores in one part of the benchmark.

    Attributes:
      language: of the instructions.
      subset: of the samples.
      method: whose pictures were rated.
      tasks: task -> score; None: nobody rated it.
      average: plain mean over the tasks; None if one of them has no score.
      participants: who rated one of its pictures or more.
      ratings: of its pictures.
    """

    language: str
    subset: Subset
    method: str
    tasks: dict[str, MeanScore | None]
    average: MeanScore | None
    participants: int
    ratings: int


def score_study(key: StudyKey, answers: Answers) -> list[StudyRow]:
    """Scores every method in every language, on all samples and on the intersection.

    A task's score is the mean over participants of each one's mean rating of the method's pictures
    in the task, in POINTS a level: everybody counts alike, however many pictures they rated. The
    intervals are percentiles of a bootstrap that draws participants, all that one said together,
    and the same ones for all methods. A resample without a rating of some task is left out; there
    is no interval if these are more than 1 - FEWEST_DEFINED of them, or of a single participant.

    Args:
      key: of the study.
      answers: of its participants.

    Returns:
      A row for each language, subset and method, in the key's order. There are none of the
      intersection if the data set has no flag for it.
    """
    flagged = any(sample.intersection is not None for sample in key.samples.values())
    subsets: tuple[Subset, ...] = ("full", "intersection") if flagged else ("full",)
    people = [name for name in key.participants if answers.ratings.get(name)]
    rng = np.random.default_rng(SEED)
    number = len(people)
    draws = (
        rng.multinomial(number, np.full(number, 1 / number), RESAMPLES).astype(float)
        if number > 1
        else np.zeros((0, number))
    )
    rows = []
    for language in _in_order({s.language for s in key.samples.values()}, key, "languages"):
        for subset in subsets:
            tasks = _in_order(
                {s.task for s in key.samples.values() if s.language == language}, key, "tasks"
            )
            levels = _levels(key, answers, language, subset)
            for method in key.methods:
                rows.append(_row(language, subset, method, tasks, people, levels[method], draws))
    return rows


def _in_order(names: set[str], key: StudyKey, field: Literal["tasks", "languages"]) -> list[str]:
    """Sort names in the benchmark's order, others after them."""
    benchmark = BENCHMARKS.get(key.benchmark)
    official = list(getattr(benchmark, field)) if benchmark else []
    return [n for n in official if n in names] + sorted(names - set(official))


def _levels(
    key: StudyKey, answers: Answers, language: str, subset: Subset
) -> Mapping[str, Mapping[tuple[str, str], list[int]]]:
    """Method -> (participant, task) -> the levels of that participant's ratings."""
    found: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for sample in key.samples.values():
        if sample.language != language or (subset == "intersection" and not sample.intersection):
            continue
        for participant, ratings in answers.ratings.items():
            for picture, method in sample.pictures.items():
                if picture in ratings:
                    found[method][participant, sample.task].append(ratings[picture])
    return found


def _row(
    language: str,
    subset: Subset,
    method: str,
    tasks: Sequence[str],
    people: Sequence[str],
    levels: Mapping[tuple[str, str], list[int]],
    draws: np.ndarray,
) -> StudyRow:
    means = np.full((len(people), len(tasks)), np.nan)  # NaN: that person rated none of that task
    for i, person in enumerate(people):
        for j, task in enumerate(tasks):
            if ratings := levels.get((person, task)):
                means[i, j] = POINTS * float(np.mean(ratings))
    there = ~np.isnan(means)
    filled = np.where(there, means, 0.0)
    rated = there.any(0)
    of_tasks = filled.sum(0) / np.maximum(there.sum(0), 1)
    counts = draws @ there
    resampled = np.where(counts > 0, draws @ filled, np.nan) / np.maximum(counts, 1)
    return StudyRow(
        language=language,
        subset=subset,
        method=method,
        tasks={
            task: _score(of_tasks[j], resampled[:, j]) if rated[j] else None
            for j, task in enumerate(tasks)
        },
        average=_score(of_tasks.mean(), resampled.mean(1)) if tasks and rated.all() else None,
        participants=int(there.any(1).sum()),
        ratings=sum(map(len, levels.values())),
    )


def _score(mean: float, resampled: np.ndarray) -> MeanScore:
    defined = resampled[~np.isnan(resampled)]
    if not len(resampled) or len(defined) < FEWEST_DEFINED * len(resampled):
        return MeanScore(float(mean), None, None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return MeanScore(float(mean), float(low), float(high))
