"""From questions about pairs to verdicts."""

import dataclasses
from collections.abc import Iterable, Iterator

from step1x_jax.asking.ask import AskEstimate, AskLimits, AskResult, ask_all, plan_asking
from step1x_jax.asking.cache import ReplyCache
from step1x_jax.asking.exchange import Ask, Respondent
from step1x_jax.evaluation.judging.tally import Tally, show_progress
from step1x_jax.evaluation.pairwise.questions import parse
from step1x_jax.evaluation.pairwise.verdicts import Failure, PairVerdict, Winner

# A verdict whose winner is open, and its question; or one that is known, and none.
Questions = Iterable[tuple[PairVerdict, Ask | None]]


def plan_verdicts(
    questions: Questions, judge: Respondent, cache: ReplyCache, limits: AskLimits
) -> AskEstimate:
    """Return what `collect_verdicts` would ask, without asking."""
    asks = (ask for _, ask in questions if ask is not None)
    return plan_asking(asks, judge, cache, limits, parse)


def collect_verdicts(
    questions: Questions,
    judge: Respondent,
    cache: ReplyCache,
    limits: AskLimits,
    tally: Tally,
    total: int,
) -> list[PairVerdict]:
    """Ask a judge, with a progress bar.

    Args:
      questions: taken one by one as they are needed.
      judge: whom.
      cache: open.
      limits: how often and how fast.
      tally: counts what it costs.
      total: how many questions there are, at most.

    Returns:
      The verdicts, in the order of their questions.

    Raises:
      UserError: the judge cannot be asked; replies that came until then are kept.
    """
    verdicts: dict[PairVerdict, PairVerdict] = {}  # as it is open -> as it came out

    def asks() -> Iterator[Ask]:
        for verdict, ask in questions:
            verdicts[verdict] = verdict
            if ask is not None:
                yield ask

    answers: Iterator[AskResult[Winner]] = ask_all(asks(), judge, cache, limits, parse)
    for answer in show_progress(answers, total, tally):
        failure: Failure = "" if answer.status == "ok" else answer.status
        verdict: PairVerdict = answer.ask.subject
        verdicts[verdict] = dataclasses.replace(verdict, winner=answer.value, failure=failure)
    return list(verdicts.values())
