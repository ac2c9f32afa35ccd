"""judge --against: pairs of methods' pictures, and the flags that it has of its own."""

import collections
import sys
from typing import cast, get_args

from absl import flags

from launch.evaluations import benchmark_flags, judge_flags
from launch.shared.exit_codes import SOME_FAILED
from step1x_jax.evaluation.datasets import find_source
from step1x_jax.evaluation.judging.tally import Tally, describe_plan
from step1x_jax.evaluation.pairwise.judge_pairs import judge_pairs, plan_pairs, plan_run
from step1x_jax.evaluation.pairwise.questions import QUESTIONS, Orders
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict

AGAINST = flags.DEFINE_list(
    "against", [], "Methods whose pictures are compared with those of --method, pair by pair."
)
_ORDERS = flags.DEFINE_enum(
    "orders",
    "both",
    get_args(Orders),
    "With --against: each pair in both orders, or in one that chance chooses.",
)
_DIMENSIONS = flags.DEFINE_list(
    "dimensions", [], f"With --against: only these of {', '.join(q.name for q in QUESTIONS)}."
)


def judge_against(results: str, method: str) -> int:
    """Judge pairs of methods, and print what became of the questions.

    Args:
      results: folder of all methods.
      method: which is compared with those of --against.

    Returns:
      The exit code.

    Raises:
      UserError: a flag has no place here, or see `judge_pairs`.
    """
    judge_flags.check_for_pairs()
    benchmark = benchmark_flags.benchmark()
    run = plan_run(
        benchmark,
        results,
        judge_flags.judge_name(),
        judge_flags.preset(),
        method,
        AGAINST.value,
        source=find_source(benchmark, benchmark_flags.SOURCE.value),
        dimensions=_DIMENSIONS.value,
        orders=cast(Orders, _ORDERS.value),
    )
    samples = benchmark_flags.samples()
    limits, prices = judge_flags.limits(), judge_flags.prices()
    with judge_flags.judge(run.preset) as judge:
        if judge_flags.DRY_RUN.value:
            plan, without = plan_pairs(run, samples, judge, limits)
            print(describe_plan(plan, prices))
            _print_without(without)
            return 0
        tally = Tally(prices)
        verdicts, without = judge_pairs(run, samples, judge, limits, tally)
    print(f"{run.folder}: {tally}")
    _print_without(without)
    return print_verdicts(verdicts)


def print_verdicts(verdicts: list[PairVerdict]) -> int:
    """How many of which kind there are in each dimension; the exit code."""
    names = ("first", "second", "tie", "unparsable", "refused", "failed")
    counts: collections.Counter[tuple[str, str]] = collections.Counter(
        (one.dimension, one.winner or one.failure) for one in verdicts
    )
    width = max(len(one.dimension) for one in verdicts)
    print(" " * width, *(f"{name:>10}" for name in names))
    for dimension in dict.fromkeys(one.dimension for one in verdicts):
        print(f"{dimension:<{width}}", *(f"{counts[dimension, name]:>10}" for name in names))
    return SOME_FAILED if any(one.winner is None for one in verdicts) else 0


def _print_without(without: dict[str, dict[str, int]]) -> None:
    for method, counts in without.items():
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        if said:
            print(f"{method}: pictures {said}", file=sys.stderr)
