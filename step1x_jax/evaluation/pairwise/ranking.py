"""Methods ranked by the verdicts of a judge: in each dimension, and jointly in all of them.

The joint score is never given alone. In the published leaderboard of GEditBench v2 one dimension
ranks the models almost independently of what people prefer, and a sum hides that.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from step1x_jax.evaluation.pairwise.bootstrap import RESAMPLES, draw_keys, enclose, resample_elo
from step1x_jax.evaluation.pairwise.davidson import Weighting, fit_davidson
from step1x_jax.evaluation.pairwise.orders import OrderStatistics, measure_orders
from step1x_jax.evaluation.pairwise.outcomes import Outcomes, check_connected, count_outcomes
from step1x_jax.evaluation.pairwise.verdicts import SWAPPED, Verdict, Winner, combine_orders

JOINTLY = "overall"  # in place of a dimension's name


@dataclasses.dataclass(frozen=True)
class Score:
    """A method in one table.

    Attributes:
      method: its name.
      elo: 1000 is the mean of all methods; 400 points are odds of ten to one.
      low: lower end of the 95 % interval.
      high: upper end of it.
      matches: pairs with a verdict, both orders as one.
      wins: matches that it won.
      ties: those that neither won.
      losses: those that it lost.
      judged: verdicts, each order for itself.
      failed: questions about it without a verdict.
    """

    method: str
    elo: float
    low: float
    high: float
    matches: int
    wins: int
    ties: int
    losses: int
    judged: int
    failed: int


@dataclasses.dataclass(frozen=True)
class Table:
    """The ranking in one dimension, or jointly.

    Attributes:
      dimension: its name, or JOINTLY.
      scores: by falling Elo.
      orders: what the judge's verdicts are like.
      keys: number of samples with a verdict, those in several languages once.
    """

    dimension: str
    scores: tuple[Score, ...]
    orders: OrderStatistics
    keys: int


def rank(
    verdicts: Iterable[Verdict],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weighting: Weighting = "balanced",
) -> list[Table]:
    """Ranks methods.

    Args:
      verdicts: of all questions asked, in one order or both.
      resamples: of the keys, for the intervals.
      seed: of the resamples.
      weighting: of the dimensions in the joint table, as `fit_davidson` has it.

    Returns:
      A table for each dimension, in the order of the verdicts, then the joint one.

    Raises:
      UserError: there are no verdicts with a winner or a tie, or methods that no comparison
        connects, in some dimension.
    """
    verdicts = list(verdicts)
    combined = combine_orders(verdicts)
    outcomes = count_outcomes(combined)
    drawn = draw_keys(outcomes.by_key.shape[0], resamples, seed)

    def table(name: str, of: Outcomes, asked: list[Verdict], matches: list[Verdict]) -> Table:
        check_connected(of)
        fit = fit_davidson(of.counts(), of.first, of.second, len(of.methods), weighting=weighting)
        low, high = enclose(resample_elo(of, drawn, weighting=weighting))
        scores = [
            Score(
                method=method,
                elo=float(fit.elo[i]),
                low=float(low[i]),
                high=float(high[i]),
                **_counts(method, asked, matches),
            )
            for i, method in enumerate(of.methods)
        ]
        return Table(
            dimension=name,
            scores=tuple(sorted(scores, key=lambda score: -score.elo)),
            orders=measure_orders(asked),
            keys=len({(one.task, one.key) for one in matches if one.winner is not None}),
        )

    def only(dimension: str, of: Sequence[Verdict]) -> list[Verdict]:
        return [one for one in of if one.dimension == dimension]

    tables = [
        table(name, outcomes.of_dimension(name), only(name, verdicts), only(name, combined))
        for name in outcomes.dimensions
    ]
    return [*tables, table(JOINTLY, outcomes, verdicts, combined)]


def _counts(method: str, asked: list[Verdict], matches: list[Verdict]) -> dict[str, int]:
    def of(verdicts: list[Verdict]) -> list[Winner | None]:
        """The winners of its verdicts as if it stood first."""
        return [
            one.winner if one.first == method else SWAPPED[one.winner]
            for one in verdicts
            if method in (one.first, one.second)
        ]

    results, answers = of(matches), of(asked)
    return {
        "matches": len(results) - results.count(None),
        "wins": results.count("first"),
        "ties": results.count("tie"),
        "losses": results.count("second"),
        "judged": len(answers) - answers.count(None),
        "failed": answers.count(None),
    }
