"""Verdicts combined over orders, on disk and back, and their statistics."""

import dataclasses
import json

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.orders import measure_orders
from step1x_jax.evaluation.pairwise.verdicts import (
    PairVerdict,
    check_pictures,
    combine_orders,
    read_verdicts,
    write_verdicts,
)
from tests.evaluation.pairwise.examples import ask_all, golden


def both(winner_of_ab, winner_of_ba):
    return [PairVerdict("q", "t", "k", "a", "b", winner_of_ab),
            PairVerdict("q", "t", "k", "b", "a", winner_of_ba)]  # fmt: skip


@pytest.mark.parametrize(
    ("ab", "ba", "combined"),
    [
        ("first", "second", "first"),  # a twice
        ("second", "first", "second"),
        ("tie", "tie", "tie"),
        ("first", "first", "tie"),  # the place decided
        ("first", "tie", "tie"),
        ("first", None, "first"),  # a single verdict is kept
        (None, "first", "second"),
        (None, "tie", "tie"),
        (None, None, None),  # a failure is never a tie
    ],
)
def test_both_orders_as_one(ab, ba, combined):
    (one,) = combine_orders(both(ab, ba))
    assert one == PairVerdict("q", "t", "k", "a", "b", combined)


def test_matches_differ_in_every_part_of_their_identity():
    one = PairVerdict("q", "t", "k", "a", "b", "first", "en")
    changes = ({"dimension": "r"}, {"task": "u"}, {"key": "l"}, {"second": "c"}, {"language": "cn"})
    verdicts = [one, *(dataclasses.replace(one, winner="second", **change) for change in changes)]
    assert len(combine_orders(verdicts)) == 6


def test_statistics_of_orders():
    verdicts = [
        *both("first", "second"),  # agree on a
        *(dataclasses.replace(v, key="2") for v in both("first", "first")),
        *(dataclasses.replace(v, key="3") for v in both("tie", "tie")),
        *(dataclasses.replace(v, key="4") for v in both("second", None)),
        *(dataclasses.replace(v, key="5") for v in both(None, None)),
        *(dataclasses.replace(v, key="6", pictures=("x", "x")) for v in both("tie", "tie")),
    ]
    orders = measure_orders(verdicts)
    assert (orders.verdicts, orders.ties, orders.failed) == (7, 2, 3)
    assert orders.first_rate == 3 / 5
    assert (orders.both_orders, orders.agreement, orders.single) == (3, 2 / 3, 1)
    assert orders.identical == 1


def test_statistics_of_a_judge_that_gave_nothing():
    orders = measure_orders(both(None, None))
    assert (orders.verdicts, orders.failed) == (0, 2)
    assert orders.first_rate is None
    assert orders.agreement is None


def test_a_judge_that_always_names_the_first_agrees_with_itself_never():
    orders = measure_orders(ask_all("abc", ["1", "2"], lambda *_: "first"))
    assert (orders.first_rate, orders.agreement) == (1.0, 0.0)


def test_files_give_back_what_was_written(tmp_path):
    verdicts, _ = golden()
    given = dataclasses.replace(verdicts[0], language="cn", pictures=("1f", "2e"), key="钥")
    verdicts = [given, *verdicts[1:]]
    write_verdicts(tmp_path / "verdicts.jsonl", verdicts)
    assert read_verdicts(tmp_path / "verdicts.jsonl") == verdicts


LINE = {"dimension": "q", "task": "t", "key": "k", "first": "a", "second": "b", "winner": "tie"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "has no verdicts"),
        ([LINE, {**LINE, "winner": "a"}], "line 2: winner"),
        ([{**LINE, "second": "a"}], "line 1 compares a with itself"),
        ([LINE, LINE], "line 2 judges what line 1 judges"),
        ([{**LINE, "extra": 1}], "unknown field extra"),
        ([{k: v for k, v in LINE.items() if k != "winner"}], "winner"),
    ],
)
def test_wrong_files_are_refused(tmp_path, lines, words):
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=words):
        read_verdicts(path)


def test_a_missing_file_and_an_endless_line_are_refused(tmp_path):
    with pytest.raises(UserError, match="ask a judge first"):
        read_verdicts(tmp_path / "none.jsonl")
    (tmp_path / "long.jsonl").write_bytes(b"x" * (3 << 20))
    with pytest.raises(UserError, match="line 1 is longer"):
        read_verdicts(tmp_path / "long.jsonl")


def test_a_method_whose_pictures_changed_is_named():
    one = PairVerdict("q", "t", "k", "a", "b", "first", pictures=("1", "2"))
    check_pictures(
        [one, dataclasses.replace(one, dimension="r"), PairVerdict("q", "t", "k", "a", "c", "tie")]
    )
    other = PairVerdict("q", "t", "k", "c", "a", "first", pictures=("3", "9"))
    with pytest.raises(UserError, match="picture of a for t/k changed"):
        check_pictures([one, other])
