"""Judgements of the golden file, and verdicts of made-up judges."""

import itertools
import json

import numpy as np

from step1x_jax.evaluation.pairwise.verdicts import PairVerdict
from tests.golden import VECTORS

DIMENSIONS = ("instruction_following", "visual_quality", "visual_consistency")


def golden():
    """The golden file's verdicts, and what it expects of them."""
    values = json.loads((VECTORS / "gedit2_pairwise.json").read_text())
    verdicts = [
        PairVerdict(one["dimension"], one["task_type"], one["key"], one["first"], one["second"],
                one["winner"])
        for one in values["judgements"]
    ]  # fmt: skip
    return verdicts, values["expected"]


def renamed(verdicts, names):
    """The same verdicts about methods with other names."""
    return [
        PairVerdict(**{**vars(one), "first": names[one.first], "second": names[one.second]})
        for one in verdicts
    ]


def ask_all(methods, keys, decide, dimensions=DIMENSIONS):
    """Verdicts of a judge in both orders; `decide(dimension, key, first, second)` is the winner."""
    return [
        PairVerdict(dimension, "task", key, first, second, decide(dimension, key, first, second))
        for key in keys
        for dimension in dimensions
        for first, second in itertools.permutations(methods, 2)
    ]


def drawn_verdicts(ability, nu, matches, seed=0, dimension="quality"):
    """Verdicts drawn from Davidson's model: of {method: ability}, `matches` of each pair."""
    rng = np.random.default_rng(seed)
    verdicts = []
    for one, other in itertools.combinations(ability, 2):
        a, b = ability[one], ability[other]
        parts = np.array([np.exp(a), np.exp(b), 2 * nu * np.exp((a + b) / 2)])
        for number in range(matches):
            winner = rng.choice(["first", "second", "tie"], p=parts / parts.sum())
            verdicts.append(PairVerdict(dimension, "t", f"{number}", one, other, str(winner)))
    return verdicts
