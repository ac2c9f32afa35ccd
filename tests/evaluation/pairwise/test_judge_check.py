"""Judges against people: what is asked, and what accuracy and bias come to."""

import json

import numpy as np
import pytest

from step1x_jax.asking.ask import AskLimits
from step1x_jax.evaluation.judging.presets import find_preset
from step1x_jax.evaluation.judging.tally import Prices, Tally
from step1x_jax.evaluation.pairwise.check_tables import to_json, to_markdown
from step1x_jax.evaluation.pairwise.judge_check import (
    FIRST,
    SECOND,
    check_judge,
    measure_judge,
    plan_check,
)
from step1x_jax.evaluation.pairwise.judged_pairs import JudgedPair
from step1x_jax.evaluation.pairwise.pair_files import read_pairs
from step1x_jax.evaluation.pairwise.questions import for_pairs
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict
from tests.evaluation.pairwise.made_up import MadeUp, always
from tests.evaluation.toy import picture, png

PRESET = for_pairs(find_preset("gpt-4.1"))
LIMITS = AskLimits(max_attempts=2, concurrency=4, first_wait=0.001)


def pair(number, preferred="first", dimension="visual_consistency", task="add"):
    def read(name):
        return lambda: png(picture(f"{name} {number}"))

    return JudgedPair(str(number), task, dimension, "add a hat", read("source"), read("first"),
                      read("second"), preferred)  # fmt: skip


def verdicts_of(pairs, decide):
    """In both orders; `decide(pair, order)` is the winner as the data set has the pictures."""
    swapped = {"first": "second", "second": "first", "tie": "tie", None: None}
    return [
        PairVerdict(one.dimension, one.task, one.key, *names, turn(decide(one, names)))
        for one in pairs
        for names, turn in (
            ((FIRST, SECOND), lambda winner: winner),
            ((SECOND, FIRST), swapped.get),
        )
    ]


def test_each_pair_is_asked_the_question_of_its_dimension_in_both_orders(tmp_path):
    pairs = [pair(0), pair(1, "second", "visual_quality"), pair(2, "tie", "overall")]
    judge = MadeUp(always("Image A"))
    verdicts = check_judge(pairs, tmp_path, PRESET, judge, LIMITS, "both", Tally(Prices()), "bench")
    asked = sorted((a.subject.dimension, a.subject.first, len(a.parts)) for a in judge.asked)
    assert asked == [
        ("overall", "A", 7), ("overall", "B", 7),
        ("visual_consistency", "A", 7), ("visual_consistency", "B", 7),
        ("visual_quality", "A", 5), ("visual_quality", "B", 5),
    ]  # fmt: skip
    kept, facts = read_pairs(tmp_path)
    assert sorted(map(repr, kept)) == sorted(map(repr, verdicts))
    assert (facts["dataset"], facts["served_model"]) == ("bench", "m-1")
    assert plan_check(pairs, tmp_path, PRESET, judge, LIMITS, "both").calls == 0
    assert plan_check([*pairs, pair(3)], tmp_path, PRESET, judge, LIMITS, "one").calls == 1


def test_a_perfect_judge_and_its_opposite():
    pairs = [pair(i, "first" if i % 3 else "second") for i in range(30)]
    (right,) = measure_judge(pairs, verdicts_of(pairs, lambda one, _: one.preferred))
    assert (right.pairs, right.decided, right.tied, right.wrong) == (30, 30, 0, 0)
    assert (right.accuracy.value, right.accuracy.low, right.accuracy.high) == (1, 1, 1)
    assert right.right.value == 1
    assert right.first_rate.value == 0.5
    other = {"first": "second", "second": "first"}
    (wrong,) = measure_judge(pairs, verdicts_of(pairs, lambda one, _: other[one.preferred]))
    assert (wrong.accuracy.value, wrong.right.value, wrong.wrong) == (0, 0, 30)


def test_a_judge_that_always_names_the_first_has_half_the_accuracy_and_all_the_bias():
    pairs = [pair(i, "first" if i % 4 else "second") for i in range(40)]
    place = {(FIRST, SECOND): "first", (SECOND, FIRST): "second"}
    (table,) = measure_judge(pairs, verdicts_of(pairs, lambda _, names: place[names]))
    assert table.accuracy.value == 0.5
    assert (table.right.value, table.tied, table.wrong) == (0, 40, 0)
    assert table.first_rate.value == 1
    assert table.orders.agreement == 0
    # Asked in the data set's order alone, it would look good where the better one stands first.
    alone = [one for one in verdicts_of(pairs, lambda _, n: place[n]) if one.first == FIRST]
    assert measure_judge(pairs, alone)[0].accuracy.value == 0.75


def test_ties_and_failures():
    pairs = [pair(0), pair(1), pair(2, "tie"), pair(3, "tie"), pair(4), pair(5)]
    said = {"0": "tie", "1": "first", "2": "tie", "3": "second", "4": None}

    def decide(one, names):
        if one.key == "5":
            return "first" if names == (FIRST, SECOND) else None
        return said[one.key]

    (table,) = measure_judge(pairs, verdicts_of(pairs, decide))
    assert (table.pairs, table.decided) == (6, 3)
    assert table.accuracy.value == pytest.approx(2 / 3)  # a tie is not the right picture
    assert (table.right.value, table.tied, table.wrong) == (pytest.approx(2 / 3), 1, 0)
    assert (table.people_ties, table.ties_found) == (2, 1)
    assert table.orders.failed == 3
    assert table.tasks == {"add": (3, pytest.approx(2 / 3))}


def test_intervals_are_those_of_a_proportion():
    # Of a judge right on 300 of 400 pairs, in both orders alike: 0.75 +- 1.96 sqrt(.75 .25 / 400).
    pairs = [pair(i) for i in range(400)]
    (table,) = measure_judge(
        pairs, verdicts_of(pairs, lambda one, _: "first" if int(one.key) < 300 else "second")
    )
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    # 1000 resamples know the ends to about 0.003.
    assert table.accuracy.low == pytest.approx(0.75 - half, abs=0.008)
    assert table.accuracy.high == pytest.approx(0.75 + half, abs=0.008)


def test_dimensions_and_tasks_stand_apart():
    pairs = [pair(0, task="add"), pair(1, task="remove"),
             pair(0, dimension="visual_quality")]  # fmt: skip
    right = {"add": "first", "remove": "second"}
    tables = measure_judge(pairs, verdicts_of(pairs, lambda one, _: right[one.task]))
    assert [table.dimension for table in tables] == ["visual_consistency", "visual_quality"]
    assert tables[0].tasks == {"add": (1, 1.0), "remove": (1, 0.0)}
    text = to_markdown(tables, "gpt", {"model": "m", "provider": "p"})
    assert "| visual_consistency | 2 | 2 | 50.0 % [0.0, 100.0] |" in text
    assert "| remove | 1 | 0.0 % |" in text
    assert text.rstrip().endswith("**gpt**: model m; provider p")
    values = json.loads(json.dumps(to_json(tables, "gpt", {"model": "m"}), allow_nan=False))
    assert values["dimensions"][0]["accuracy"]["value"] == 0.5


def test_a_judge_that_said_nothing():
    pairs = [pair(0), pair(1, "tie")]
    (table,) = measure_judge(pairs, verdicts_of(pairs, lambda *_: None))
    assert (table.decided, table.accuracy, table.right, table.first_rate) == (0, None, None, None)
    assert "| – | – | – | – | – |" in to_markdown([table], "gpt", {})
