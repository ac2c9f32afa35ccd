"""How far a judge agrees with people: accuracy and position bias on pairs that they have judged."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from step1x_jax.asking.ask import AskEstimate, AskLimits
from step1x_jax.asking.cache import look_into_cache, open_cache
from step1x_jax.asking.exchange import Ask, Respondent
from step1x_jax.evaluation.judging.facts import ANOTHER, judge_facts
from step1x_jax.evaluation.judging.presets import JudgePreset
from step1x_jax.evaluation.judging.tally import Tally
from step1x_jax.evaluation.pairwise.asking import collect_verdicts, plan_verdicts
from step1x_jax.evaluation.pairwise.bootstrap import RESAMPLES, draw_keys, enclose
from step1x_jax.evaluation.pairwise.judged_pairs import QUESTIONS, JudgedPair
from step1x_jax.evaluation.pairwise.orders import OrderStatistics, measure_orders
from step1x_jax.evaluation.pairwise.pair_files import write_pairs
from step1x_jax.evaluation.pairwise.questions import (
    PROTOCOL,
    Orders,
    ask_about_pair,
    prompts_for,
    show,
)
from step1x_jax.evaluation.pairwise.verdicts import SWAPPED, PairVerdict, Winner
from step1x_jax.evaluation.samples import SampleId

FIRST, SECOND = "A", "B"  # in place of methods: a pair's pictures as the data set has them


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of pairs.

    Attributes:
      value: from 0 to 1.
      low: lower end of the 95 % interval, by drawing pairs again.
      high: upper end.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class CheckTable:
    """A judge in one dimension.

    Attributes:
      dimension: its name.
      pairs: that were asked about.
      decided: of these, those where people prefer one picture and the judge gave a verdict.
      accuracy: mean share of a decided pair's verdicts that name the picture that people prefer, a
        tie being none. It can be compared with accuracies from one order. None: nothing decided.
      right: share of decided pairs with the right picture in every order that has a verdict.
      tied: number of decided pairs whose verdicts make a tie.
      wrong: number of those that name the other picture.
      first_rate: share of decisive verdicts that name the picture that stood first; 0.5 is fair.
      people_ties: pairs between which people see no difference and the judge gave a verdict.
      ties_found: those of them whose verdicts make a tie, too.
      tasks: task -> number of decided pairs and accuracy.
      orders: statistics of all verdicts.
    """

    dimension: str
    pairs: int
    decided: int
    accuracy: Share | None
    right: Share | None
    tied: int
    wrong: int
    first_rate: Share | None
    people_ties: int
    ties_found: int
    tasks: Mapping[str, tuple[int, float]]
    orders: OrderStatistics


def plan_check(
    pairs: Sequence[JudgedPair],
    folder: epath.Path,
    preset: JudgePreset,
    judge: Respondent,
    limits: AskLimits,
    orders: Orders,
) -> AskEstimate:
    """Return what `check_judge` would ask, without asking or writing."""
    questions = _ask_about_all(pairs, preset, orders)
    return plan_verdicts(questions, judge, look_into_cache(folder), limits)


def check_judge(
    pairs: Sequence[JudgedPair],
    folder: epath.Path,
    preset: JudgePreset,
    judge: Respondent,
    limits: AskLimits,
    orders: Orders,
    tally: Tally,
    dataset: str,
) -> list[PairVerdict]:
    """Ask a judge about pairs that people have judged, and write what it said.

    Args:
      pairs: of `read_judged_pairs`.
      folder: where verdicts.jsonl, judge.json and the replies go.
      preset: the judge's, for pairs.
      judge: whom; of that preset.
      limits: how often and how fast.
      orders: in which a pair is shown.
      tally: counts what it costs.
      dataset: where the pairs are from, for judge.json.

    Returns:
      The verdicts; in place of methods they name FIRST and SECOND.

    Raises:
      UserError: the judge cannot be asked, a picture cannot be read, or a file not be written.
    """
    served = judge.describe()
    questions = _ask_about_all(pairs, preset, orders)
    total = len(pairs) * (2 if orders == "both" else 1)
    with open_cache(folder, ANOTHER) as cache:
        verdicts = collect_verdicts(questions, judge, cache, limits, tally, total)
        prompts = prompts_for([QUESTIONS[name] for name in _dimensions(pairs)])
        facts: dict[str, Any] = {
            "judge": preset.name,
            "parameters": dict(judge.parameters),
            "dataset": dataset,
            "protocol": PROTOCOL,
            "prompt_hash": prompts.fingerprint,
        }
        facts |= judge_facts(preset, prompts.source, cache, served)
        write_pairs(folder, verdicts, facts)
    return verdicts


def _dimensions(pairs: Sequence[JudgedPair]) -> list[str]:
    return list(dict.fromkeys(pair.dimension for pair in pairs))


def _ask_about_all(
    pairs: Sequence[JudgedPair], preset: JudgePreset, orders: Orders
) -> Iterator[tuple[PairVerdict, Ask | None]]:
    prompts = prompts_for([QUESTIONS[name] for name in _dimensions(pairs)])
    for pair in pairs:
        name = f"{pair.dimension} {pair.key}"
        yield from ask_about_pair(
            SampleId(pair.task, "", pair.key),
            pair.instruction,
            show(pair.source(), f"the source of {name}", preset),
            {
                FIRST: show(pair.first(), f"the first picture of {name}", preset),
                SECOND: show(pair.second(), f"the second picture of {name}", preset),
            },
            [QUESTIONS[pair.dimension]],
            prompts,
            orders,
        )


def measure_judge(pairs: Sequence[JudgedPair], verdicts: Sequence[PairVerdict]) -> list[CheckTable]:
    """How verdicts agree with people, for each dimension in the order of the pairs."""
    answers: dict[tuple[str, str, str], list[PairVerdict]] = collections.defaultdict(list)
    for one in verdicts:
        answers[one.dimension, one.task, one.key].append(one)
    tables = []
    for dimension in _dimensions(pairs):
        own = [pair for pair in pairs if pair.dimension == dimension]
        given = [answers[dimension, pair.task, pair.key] for pair in own]
        tables.append(_measure(dimension, own, given))
    return tables


def _measure(
    dimension: str, pairs: Sequence[JudgedPair], answers: Sequence[Sequence[PairVerdict]]
) -> CheckTable:
    right, tied, wrong, accuracies, by_task = [], 0, 0, [], collections.defaultdict(list)
    people_ties = ties_found = 0
    for pair, given in zip(pairs, answers, strict=True):
        winners = [winner for winner in map(_as_stored, given) if winner is not None]
        if not winners:
            continue
        agreed = winners[0] if len(set(winners)) == 1 else "tie"
        if pair.preferred == "tie":
            people_ties += 1
            ties_found += agreed == "tie"
            continue
        accuracy = winners.count(pair.preferred) / len(winners)
        accuracies.append(accuracy)
        by_task[pair.task].append(accuracy)
        right.append(float(agreed == pair.preferred))
        tied += agreed == "tie"
        wrong += agreed == SWAPPED[pair.preferred]
    ones = np.ones(len(accuracies))
    places = np.array([_places(given) for given in answers], np.float64).reshape(-1, 2)
    return CheckTable(
        dimension=dimension,
        pairs=len(pairs),
        decided=len(accuracies),
        accuracy=_share(np.array(accuracies), ones),
        right=_share(np.array(right), ones),
        tied=tied,
        wrong=wrong,
        first_rate=_share(places[:, 0], places[:, 1]),
        people_ties=people_ties,
        ties_found=ties_found,
        tasks={task: (len(of), float(np.mean(of))) for task, of in by_task.items() if task},
        orders=measure_orders(one for given in answers for one in given),
    )


def _as_stored(verdict: PairVerdict) -> Winner | None:
    """Its winner as if the pictures stood in the data set's order."""
    return verdict.winner if verdict.first == FIRST else SWAPPED[verdict.winner]


def _places(verdicts: Sequence[PairVerdict]) -> tuple[int, int]:
    """How many verdicts name the picture that stood first, and how many name one at all."""
    decisive = [one.winner for one in verdicts if one.winner not in (None, "tie")]
    return decisive.count("first"), len(decisive)


def _share(parts: np.ndarray, wholes: np.ndarray) -> Share | None:
    """The sum of parts over the sum of wholes, both by pair; None if there is no whole."""
    if not wholes.sum():
        return None
    drawn = draw_keys(len(wholes), RESAMPLES, seed=0)
    sums = drawn @ wholes
    shares = (drawn @ parts)[sums > 0] / sums[sums > 0]
    low, high = enclose(shares[:, None])
    return Share(float(parts.sum() / wholes.sum()), float(low[0]), float(high[0]))
