"""Statistics of a judge from both orders of pairs: position bias, and how often none wins."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

from step1x_jax.evaluation.pairwise.verdicts import SWAPPED, PairVerdict, by_match


@dataclasses.dataclass(frozen=True)
class OrderStatistics:
    """Counts of a judge's answers in one dimension; pairs of identical pictures do not count.

    Attributes:
      verdicts: answers with a winner or a tie, each order for itself.
      ties: those that are ties.
      failed: questions without a verdict.
      failures: how many of these for which reason, where that is known.
      first_rate: share of the decisive verdicts that name the picture that stood first; 0.5 is
        fair. None: no verdict is decisive.
      both_orders: matches with a verdict in both orders.
      agreement: share of these whose verdicts are the same: the same method, or twice a tie. None:
        there is no such match.
      single: matches with a verdict in one order alone.
      identical: matches that nobody was asked about.
    """

    verdicts: int
    ties: int
    failed: int
    failures: Mapping[str, int]
    first_rate: float | None
    both_orders: int
    agreement: float | None
    single: int
    identical: int


def measure_orders(verdicts: Iterable[PairVerdict]) -> OrderStatistics:
    """Statistics of the verdicts of one dimension."""
    verdicts = list(verdicts)
    asked = [one for one in verdicts if not one.identical]
    given = [one for one in asked if one.winner is not None]
    decisive = [one for one in given if one.winner != "tie"]
    same = []
    single = 0
    for orders in by_match(given).values():
        winners = {one.first: one.winner for one in orders}
        if len(winners) == 1:
            single += 1
            continue
        a, b = winners.values()
        same.append(a == SWAPPED[b])
    return OrderStatistics(
        verdicts=len(given),
        ties=len(given) - len(decisive),
        failed=len(asked) - len(given),
        failures=dict(collections.Counter(one.failure for one in asked if one.failure)),
        first_rate=_share([one.winner == "first" for one in decisive]),
        both_orders=len(same),
        agreement=_share(same),
        single=single,
        identical=len(by_match(one for one in verdicts if one.identical)),
    )


def _share(of: list[bool]) -> float | None:
    return sum(of) / len(of) if of else None
