"""Two methods, or two judges, on the same samples: differences, wins, agreement of ranks."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.statistics import (
    Interval,
    SampleScores,
    average,
    intervals_of,
    measures_of,
    resample,
    tasks_of,
)


@dataclasses.dataclass(frozen=True)
class Difference:
    """First minus second, over samples that both have scores of.

    Attributes:
      n: samples.
      first: means of the first, by measure; empty, as the next, if there is no mean.
      second: of the second.
      means: of the differences of samples.
      intervals: 95 % of these, by paired resampling; empty where a task has one sample alone.
      wins: samples where the first is better in the most important measure.
      ties: where both are equal.
      losses: where the second is better.
      rank_correlation: Spearman's, of the most important measure over samples; None: of fewer than
        two samples, of equal scores, and of all tasks together.
    """

    n: int
    first: Mapping[str, float]
    second: Mapping[str, float]
    means: Mapping[str, float]
    intervals: Mapping[str, Interval]
    wins: int
    ties: int
    losses: int
    rank_correlation: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The comparison for one language and subset.

    Attributes:
      tasks: in the benchmark's order.
      average: over them.
      empty: tasks without a common sample, because of which there is no average.
    """

    tasks: Mapping[str, Difference]
    average: Difference
    empty: tuple[str, ...]


def pair_samples(
    first: Sequence[SampleScores], second: Sequence[SampleScores]
) -> list[tuple[SampleScores, SampleScores]]:
    """Return the samples that both have scores of."""
    others = {one.id: one for one in second if one.scores is not None}
    return [(one, others[one.id]) for one in first if one.scores is not None and one.id in others]


def compare(pairs: Sequence[tuple[SampleScores, SampleScores]], benchmark: Benchmark) -> Comparison:
    """Differences by task and on the average.

    Samples are drawn again in pairs: what makes a sample hard for both does not widen an interval.

    Args:
      pairs: scores of the first and the second for each sample, of `pair_samples`.
      benchmark: what is averaged, and how.

    Raises:
      UserError: it is judged by pairs.
    """
    measures = measures_of(benchmark)
    tasks = tasks_of([one for one, _ in pairs], benchmark)
    values = {  # of each task (n, 2, M)
        task: np.array(
            [[one.scores, other.scores] for one, other in pairs if one.id.task == task]
        ).reshape(-1, 2, len(measures))
        for task in tasks
    }
    # First, second and their difference, (n, 3, M): the mean of differences, for a difference of
    # means would not be exactly 0 of equal scores in another order.
    triples = {
        task: np.concatenate([one, one[:, :1] - one[:, 1:]], axis=1) for task, one in values.items()
    }
    resampled = resample({task: one[:, 2] for task, one in triples.items()})
    found = {
        task: _difference(
            measures,
            one[:, 2],
            one.mean(0) if len(one) else None,
            resampled.get(task),
            _rank_correlation(one[:, 0, -1], one[:, 1, -1]),
        )
        for task, one in triples.items()
    }
    empty = tuple(task for task in tasks if not len(triples[task]))
    means = spread = None
    if tasks and not empty:
        counts = list(map(len, triples.values()))
        means = average([one.mean(0) for one in triples.values()], counts, benchmark)
        if len(resampled) == len(tasks):
            spread = average(list(resampled.values()), counts, benchmark)
    every = np.concatenate([np.zeros((0, 3, len(measures))), *triples.values()])
    return Comparison(found, _difference(measures, every[:, 2], means, spread, None), empty)


def _difference(
    measures: Sequence[str],
    differences: np.ndarray,
    means: np.ndarray | None,
    resampled: np.ndarray | None,
    rank_correlation: float | None,
) -> Difference:
    """Summarize differences (n, M) of scores.

    `means` (3, M) are of first, second and difference; `resampled` is (R, M).
    """
    rows: list[dict[str, float]] = [{}, {}, {}]
    if means is not None:
        rows = [dict(zip(measures, map(float, row), strict=True)) for row in means]
    main = differences[:, -1]
    return Difference(
        n=len(main),
        first=rows[0],
        second=rows[1],
        means=rows[2],
        intervals=intervals_of(measures, resampled),
        wins=int((main > 0).sum()),
        ties=int((main == 0).sum()),
        losses=int((main < 0).sum()),
        rank_correlation=rank_correlation,
    )


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def largest_disagreements(
    pairs: Sequence[tuple[SampleScores, SampleScores]], count: int
) -> list[tuple[SampleScores, SampleScores]]:
    """Return the samples whose most important scores differ most, the most different first.

    Args:
      pairs: of `pair_samples`.
      count: so many at most; pairs of equal scores are not among them.
    """
    differing = [pair for pair in pairs if _gap(pair) != 0]
    return sorted(differing, key=lambda pair: (-abs(_gap(pair)), pair[0].id))[:count]


def _gap(pair: tuple[SampleScores, SampleScores]) -> float:
    first, second = pair[0].scores, pair[1].scores
    assert first is not None
    assert second is not None
    return float(first[-1] - second[-1])
