"""Methods ranked by the verdicts of a judge: in each dimension, and jointly in all of them.

The joint score is never given alone. In the published leaderboard of GEditBench v2 one dimension
ranks the models almost independently of what people prefer, and a sum hides that.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from step1x_jax.evaluation.pairwise.bootstrap import RESAMPLES, draw_keys, enclose, resample_elo
from step1x_jax.evaluation.pairwise.davidson import Weighting, fit_davidson
from step1x_jax.evaluation.pairwise.orders import OrderStatistics, measure_orders
from step1x_jax.evaluation.pairwise.outcomes import (
    OUTCOMES,
    Outcomes,
    check_connected,
    count_outcomes,
)
from step1x_jax.evaluation.pairwise.verdicts import (
    SWAPPED,
    PairVerdict,
    Winner,
    check_pictures,
    combine_orders,
)

JOINTLY = "overall"  # in place of a dimension's name


@dataclasses.dataclass(frozen=True)
class RankedMethod:
    """A method in one table.

    Attributes:
      method: its name.
      elo: 1000 is the mean of all methods; 400 points are odds of ten to one.
      low: lower end of the 95 % interval.
      high: upper end of it.
      wins: matches that it won, both orders of a pair being one match.
      ties: those that neither won.
      losses: those that it lost.
      judged: verdicts, each order for itself.
      failed: questions about it without a verdict.
    """

    method: str
    elo: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    judged: int
    failed: int

    @property
    def matches(self) -> int:
        """The number of matches with a verdict."""
        return self.wins + self.ties + self.losses


@dataclasses.dataclass(frozen=True)
class RankingTable:
    """The ranking in one dimension, or jointly.

    Attributes:
      dimension: its name, or JOINTLY.
      scores: by falling Elo; none if no verdict names a winner or a tie.
      orders: what the judge's verdicts are like.
      keys: number of samples with a verdict, those in several languages once.
    """

    dimension: str
    scores: tuple[RankedMethod, ...]
    orders: OrderStatistics
    keys: int


def rank(
    verdicts: Iterable[PairVerdict],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weighting: Weighting = "balanced",
) -> list[RankingTable]:
    """Ranks methods.

    Args:
      verdicts: of all questions asked, in one order or both.
      resamples: of the keys, for the intervals.
      seed: of the resamples.
      weighting: of the dimensions in the joint table, as `fit_davidson` has it.

    Returns:
      A table for each dimension, in the order of the verdicts, then the joint one.

    Raises:
      UserError: there are no verdicts with a winner or a tie, methods that no comparison connects
        in some dimension, or verdicts about different pictures of a method.
    """
    verdicts = list(verdicts)
    check_pictures(verdicts)
    combined = combine_orders(verdicts)
    outcomes = count_outcomes(combined)
    drawn = draw_keys(outcomes.by_key.shape[0], resamples, seed)

    def table(
        name: str, of: Outcomes, asked: list[PairVerdict], matches: list[PairVerdict]
    ) -> RankingTable:
        check_connected(of)
        fit = fit_davidson(of.counts(), of.first, of.second, len(of.methods), weighting=weighting)
        low, high = enclose(resample_elo(of, drawn, weighting=weighting))
        results, answers = _count_results(matches), _count_results(asked)
        scores = [
            RankedMethod(
                method=method,
                elo=float(fit.elo[i]),
                low=float(low[i]),
                high=float(high[i]),
                wins=results[method, "first"],
                ties=results[method, "tie"],
                losses=results[method, "second"],
                judged=sum(answers[method, winner] for winner in OUTCOMES),
                failed=answers[method, None],
            )
            for i, method in enumerate(of.methods)
        ]
        return RankingTable(
            dimension=name,
            scores=tuple(sorted(scores, key=lambda score: -score.elo)),
            orders=measure_orders(asked),
            keys=len({(one.task, one.key) for one in matches if one.winner is not None}),
        )

    def only(dimension: str, of: Sequence[PairVerdict]) -> list[PairVerdict]:
        return [one for one in of if one.dimension == dimension]

    tables = []
    for name in dict.fromkeys(one.dimension for one in verdicts):
        asked = only(name, verdicts)
        if name in outcomes.dimensions:
            tables.append(table(name, outcomes.of_dimension(name), asked, only(name, combined)))
        else:  # nothing but failures: that is shown, too
            tables.append(RankingTable(name, (), measure_orders(asked), keys=0))
    return [*tables, table(JOINTLY, outcomes, verdicts, combined)]


def _count_results(
    verdicts: Iterable[PairVerdict],
) -> collections.Counter[tuple[str, Winner | None]]:
    """How often each method won ("first"), lost ("second"), tied and had no verdict."""
    results: collections.Counter[tuple[str, Winner | None]] = collections.Counter()
    for one in verdicts:
        results[one.first, one.winner] += 1
        results[one.second, SWAPPED[one.winner]] += 1
    return results
