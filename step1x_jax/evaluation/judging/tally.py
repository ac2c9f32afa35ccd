"""Costs and results of asking so far, and its progress bar."""

import collections
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from step1x_jax.asking.ask import AskEstimate, AskResult

T = TypeVar("T")
MILLION = 1_000_000


@dataclasses.dataclass(frozen=True)
class Prices:
    """USD for a million tokens; None: not known, and no money is shown."""

    input: float | None = None
    output: float | None = None

    def dollars(self, input_tokens: int, output_tokens: int) -> float | None:
        """Return the price of so many tokens."""
        if self.input is None and self.output is None:
            return None
        return (input_tokens * (self.input or 0) + output_tokens * (self.output or 0)) / MILLION


def describe_plan(plan: AskEstimate, prices: Prices) -> str:
    """A plan on one line, as --dry_run prints it."""
    text = (
        f"{plan.calls} calls to make, {plan.kept} questions answered before; about"
        f" {plan.input_tokens} tokens in and {plan.output_tokens} out"
    )
    dollars = prices.dollars(plan.input_tokens, plan.output_tokens)
    return text if dollars is None else f"{text}, {dollars:.2f} USD"


class Tally:
    """Counts of answers, tokens and money of one run; kept replies cost nothing."""

    def __init__(self, prices: Prices):
        self.prices = prices
        self.statuses: collections.Counter[str] = collections.Counter()
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0

    def add(self, answer: AskResult) -> None:
        """Count an answer, and what was paid for it now."""
        self.statuses[answer.status] += 1
        for reply in answer.replies[len(answer.replies) - answer.paid :]:
            self.calls += 1
            self.input_tokens += reply.input_tokens
            self.output_tokens += reply.output_tokens

    def __str__(self) -> str:
        """Return one line: failures, replies paid, tokens, money."""
        bad = sum(count for status, count in self.statuses.items() if status != "ok")
        text = (
            f"{bad} failed, {self.calls} replies, {self.input_tokens} tokens in,"
            f" {self.output_tokens} out"
        )
        dollars = self.prices.dollars(self.input_tokens, self.output_tokens)
        return text if dollars is None else f"{text}, {dollars:.2f} USD"


def show_progress(
    answers: Iterable[AskResult[T]], total: int, tally: Tally
) -> Iterator[AskResult[T]]:
    """Pass answers on, counting them, with a bar on stderr."""
    with tqdm(total=total, desc="judging", unit="question", file=sys.stderr) as bar:
        for answer in answers:
            tally.add(answer)
            bar.set_postfix_str(str(tally), refresh=False)
            bar.update()
            yield answer
