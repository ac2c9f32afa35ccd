"""From judgements to averages: scores of samples, means of tasks, intervals.

All is float64 and nothing is rounded. A sample's scores come from its own numbers and are averaged
as they are: the mean of O is not the O of the means.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.judgements import Judgement, Status
from step1x_jax.evaluation.samples import SampleId

RESAMPLES = 2000
SEED = 0
INTERVAL = (2.5, 97.5)  # percentiles: 95 % are between
WITHOUT_PICTURE: tuple[Status, ...] = ("missing", "unreadable")

# What a sample is scored by, the measure last that methods are ranked by.
MEASURES = {"viescore": ("SC", "PQ", "O"), "mean": ("score",)}

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class SampleScores:
    """Scores of a sample from a judge's replies, all repeats of them.

    Attributes:
      id: the sample.
      intersection: the data set's flag.
      repeats: repeat -> (M,) float64, its scores in the order of the benchmark's measures; only
        valid ones.
      statuses: how many repeats ended otherwise.
    """

    id: SampleId
    intersection: bool | None
    repeats: Mapping[int, np.ndarray]
    statuses: Mapping[Status, int]

    @property
    def scores(self) -> np.ndarray | None:
        """(M,) the mean over valid repeats; None: there is none."""
        if not self.repeats:
            return None
        values = list(self.repeats.values())
        return values[0] if len(values) == 1 else np.mean(values, axis=0)

    @property
    def returned(self) -> bool:
        """Whether the method returned a picture."""
        return not any(self.statuses.get(status) for status in WITHOUT_PICTURE)


@dataclasses.dataclass(frozen=True)
class Cell:
    """Scores of some samples: of a task, or of all.

    Attributes:
      n: samples with scores.
      returned: samples with a picture.
      total: samples.
      statuses: how many judgements were not "ok", by status.
      means: of each measure; empty if there is no mean.
      intervals: 95 % of each mean; empty if of a task there is one sample alone, or none: nobody
        can know how much another one would differ.
    """

    n: int
    returned: int
    total: int
    statuses: Mapping[Status, int]
    means: Mapping[str, float]
    intervals: Mapping[str, Interval]

    @property
    def judge_failures(self) -> int:
        """Judgements that a picture should have had and has not."""
        return sum(n for status, n in self.statuses.items() if status not in WITHOUT_PICTURE)


@dataclasses.dataclass(frozen=True)
class Summary:
    """A method's table by a judge, for a language and a subset of samples.

    Attributes:
      tasks: in the benchmark's order.
      average: over them; it has no means if tasks are `empty`, or if there is none.
      empty: tasks without any score, because of which there is no average.
      noise: of each measure the standard deviation of the average between repeats of the judge;
        None: there are no repeats.
    """

    tasks: Mapping[str, Cell]
    average: Cell
    empty: tuple[str, ...]
    noise: Mapping[str, float] | None


def measures_of(benchmark: Benchmark) -> tuple[str, ...]:
    """The scores that a benchmark has, the most important last.

    Raises:
      UserError: its pictures are judged in pairs.
    """
    if benchmark.score not in MEASURES:
        raise UserError(
            f"{benchmark.name} is judged by pairs: judge with --against, then evaluate rank."
        )
    return MEASURES[benchmark.score]


def score_numbers(benchmark: Benchmark, numbers: Mapping[str, Sequence[float]]) -> np.ndarray:
    """A sample's scores, (M,) float64, from the numbers that answer each question."""
    if benchmark.score == "viescore":
        semantics, quality = (min(numbers[name]) for name in ("semantics", "quality"))
        return np.array([semantics, quality, math.sqrt(semantics * quality)])
    return np.array(
        [np.mean([x for question in benchmark.questions for x in numbers[question.name]])]
    )


def score_samples(judgements: Iterable[Judgement], benchmark: Benchmark) -> list[SampleScores]:
    """Judgements by sample, in order of task, language and key.

    Raises:
      UserError: a judgement that is "ok" lacks the numbers of a question; or see `measures_of`.
    """
    measures_of(benchmark)
    judgements = sorted(judgements, key=lambda one: (one.id, one.repeat))
    groups: dict[SampleId, list[Judgement]] = {}
    for one in judgements:
        groups.setdefault(one.id, []).append(one)
    questions = {question.name for question in benchmark.questions}
    scored = []
    for sample, ones in groups.items():
        if benchmark.tasks and sample.task not in benchmark.tasks:
            raise UserError(
                f"the judgement of {'/'.join(sample)} is of no task of {benchmark.name}; give the"
                " right --benchmark."
            )
        for one in ones:
            answered = {name for name, numbers in one.scores.items() if numbers}
            if one.status == "ok" and not questions <= answered:
                raise UserError(
                    f"the judgement of {'/'.join(sample)} has no numbers for"
                    f" {', '.join(sorted(questions - answered))}; judge it again, or give the right"
                    " --benchmark."
                )
        scored.append(
            SampleScores(
                sample,
                ones[0].intersection,
                {o.repeat: score_numbers(benchmark, o.scores) for o in ones if o.status == "ok"},
                Counter(o.status for o in ones if o.status != "ok"),
            )
        )
    return scored


def summarize(samples: Sequence[SampleScores], benchmark: Benchmark) -> Summary:
    """The table of some samples: means of tasks, their average, intervals.

    Args:
      samples: of one method, language and subset.
      benchmark: its tasks (if it names none, those of the samples) are averaged.

    Raises:
      UserError: see `measures_of`.
    """
    measures = measures_of(benchmark)
    tasks = tasks_of(samples, benchmark)
    by_task = {task: [one for one in samples if one.id.task == task] for task in tasks}
    values = {
        task: np.array([one.scores for one in ones if one.scores is not None])
        for task, ones in by_task.items()
    }
    empty = tuple(task for task in tasks if not len(values[task]))
    means = {task: one.mean(0) for task, one in values.items() if len(one)}
    resampled = resample(values)
    mean = spread = None
    if tasks and not empty:
        counts = list(map(len, values.values()))
        mean = average(list(means.values()), counts, benchmark)
        if len(resampled) == len(tasks):
            spread = average(list(resampled.values()), counts, benchmark)
    return Summary(
        tasks={
            task: _cell(ones, measures, means.get(task), resampled.get(task))
            for task, ones in by_task.items()
        },
        average=_cell([one for ones in by_task.values() for one in ones], measures, mean, spread),
        empty=empty,
        noise=_noise(list(by_task.values()), benchmark),
    )


def tasks_of(samples: Iterable[SampleScores], benchmark: Benchmark) -> tuple[str, ...]:
    """The tasks that are averaged."""
    return benchmark.tasks or tuple(sorted({one.id.task for one in samples}))


def average(means: Sequence[np.ndarray], counts: Sequence[int], benchmark: Benchmark) -> np.ndarray:
    """The mean over tasks as a benchmark wants it: tasks count the same, or samples do.

    Args:
      means: of each task, (..., M).
      counts: its samples.
      benchmark: see its `mean_of`.

    Returns:
      (..., M).
    """
    weights = None if benchmark.mean_of == "tasks" else counts
    return np.average(means, axis=0, weights=weights)


def resample(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means of tasks whose samples are drawn again, with replacement, within each.

    Args:
      values: of each task (n, M).

    Returns:
      Of each task that has two samples or more (RESAMPLES, M). The draws follow from a fixed seed,
      the task's place and its number of samples: so two methods with the same samples are drawn
      alike.
    """
    return {
        task: _draws(number, len(one)) @ one / len(one)
        for number, (task, one) in enumerate(values.items())
        if len(one) > 1
    }


@functools.lru_cache(maxsize=64)
def _draws(number: int, n: int) -> np.ndarray:
    """How often each of n samples is drawn, (RESAMPLES, n) float64."""
    rng = np.random.default_rng([SEED, number])
    return rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)


def intervals_of(measures: Sequence[str], resampled: np.ndarray | None) -> dict[str, Interval]:
    """The ends of the 95 % interval of each measure, from (RESAMPLES, M); none from None."""
    if resampled is None:
        return {}
    ends = zip(measures, *np.percentile(resampled, INTERVAL, axis=0), strict=True)
    return {name: (float(low), float(high)) for name, low, high in ends}


def _cell(
    samples: Sequence[SampleScores],
    measures: Sequence[str],
    mean: np.ndarray | None,
    resampled: np.ndarray | None,
) -> Cell:
    means = {} if mean is None else dict(zip(measures, map(float, mean), strict=True))
    statuses: Counter[Status] = Counter()
    for one in samples:
        statuses.update(one.statuses)
    return Cell(
        n=sum(bool(one.repeats) for one in samples),
        returned=sum(one.returned for one in samples),
        total=len(samples),
        statuses=dict(sorted(statuses.items())),
        means=means,
        intervals=intervals_of(measures, resampled),
    )


def _noise(
    tasks: Sequence[Sequence[SampleScores]], benchmark: Benchmark
) -> dict[str, float] | None:
    """The standard deviation of the average between repeats, over samples that have all of them."""
    repeats = sorted({repeat for ones in tasks for one in ones for repeat in one.repeats})
    whole = [
        np.array([[one.repeats[r] for r in repeats] for one in ones if [*one.repeats] == repeats])
        for ones in tasks
    ]  # of each task (n, R, M)
    if len(repeats) < 2 or not all(map(len, whole)):
        return None
    averages = average([one.mean(0) for one in whole], list(map(len, whole)), benchmark)
    deviations = averages.std(0, ddof=1)
    return {name: float(x) for name, x in zip(measures_of(benchmark), deviations, strict=True)}
