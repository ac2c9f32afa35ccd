"""One ranking from what one judge or several have said, each about dimensions of its own.

The leaderboard of GEditBench v2 has two judges: one of instruction following and quality, one of
consistency.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.bootstrap import RESAMPLES
from step1x_jax.evaluation.pairwise.pair_files import PICTURES
from step1x_jax.evaluation.pairwise.published import BENCHMARK, read_published
from step1x_jax.evaluation.pairwise.rank_tables import Ranking
from step1x_jax.evaluation.pairwise.ranking import rank
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict


class JudgeVerdicts(NamedTuple):
    """The verdicts of a judge.

    Attributes:
      verdicts: all of them.
      facts: what is to be known of it, judge.json.
    """

    verdicts: list[PairVerdict]
    facts: dict[str, Any]


def rank_judged(
    judged: Mapping[str, JudgeVerdicts], methods: Sequence[str] = (), resamples: int = RESAMPLES
) -> Ranking:
    """Ranks methods.

    Args:
      judged: of each judge by name.
      methods: only these; empty: all that were compared.
      resamples: for the intervals.

    Returns:
      The ranking; with the published one beside it, if it is about that benchmark.

    Raises:
      UserError: two judges judged one dimension, or different benchmarks; a method was not
        compared; or see `rank`.
    """
    judge_of: dict[str, str] = {}
    for name, one in judged.items():
        for dimension in dict.fromkeys(verdict.dimension for verdict in one.verdicts):
            other = judge_of.setdefault(dimension, name)
            if other != name:
                raise UserError(
                    f"{other} and {name} both judged {dimension}, and each judge has a scale of its"
                    " own; choose one with --judge."
                )
    benchmarks = {name: one.facts.get("benchmark") for name, one in judged.items()}
    if len(set(benchmarks.values())) > 1:
        said = ", ".join(f"{name} {benchmark}" for name, benchmark in benchmarks.items())
        raise UserError(f"the judges judged different benchmarks ({said}); name one with --judge.")
    verdicts = [verdict for one in judged.values() for verdict in one.verdicts]
    compared = dict.fromkeys(name for one in verdicts for name in (one.first, one.second))
    unknown = [name for name in methods if name not in compared]
    if unknown:
        raise UserError(
            f"--methods={unknown[0]} has not been compared; those that have are"
            f" {', '.join(compared)}."
        )
    if methods:
        verdicts = [one for one in verdicts if {one.first, one.second} <= set(methods)]
    return Ranking(
        tables=rank(verdicts, resamples=resamples),
        judges={name: _without_pictures(one.facts) for name, one in judged.items()},
        missing=_most_missing(judged, methods or list(compared)),
        published=read_published() if BENCHMARK in benchmarks.values() else None,
    )


def _without_pictures(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != PICTURES}


def _most_missing(
    judged: Mapping[str, JudgeVerdicts], methods: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return for each method the largest counts of any judge: all looked at the same files."""
    missing: dict[str, dict[str, int]] = {}
    for one in judged.values():
        for method, counts in one.facts.get(PICTURES, {}).items():
            if method in methods:
                there = missing.setdefault(method, {})
                for what, count in counts.items():
                    there[what] = max(count, there.get(what, 0))
    return missing
