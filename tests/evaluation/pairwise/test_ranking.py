"""Rankings and their intervals: what must not matter does not, what must is there."""

import dataclasses

import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.bootstrap import draw_keys, enclose, resample_elo
from step1x_jax.evaluation.pairwise.outcomes import count_outcomes
from step1x_jax.evaluation.pairwise.ranking import JOINTLY, rank
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict, combine_orders
from tests.evaluation.pairwise.examples import (
    DIMENSIONS,
    ask_all,
    drawn_verdicts,
    golden,
    renamed,
)


def scores_of(tables):
    return {(t.dimension, s.method): s for t in tables for s in t.scores}


def test_every_dimension_and_the_joint_score_are_there():
    tables = rank(golden()[0], resamples=20)
    assert [table.dimension for table in tables] == [*DIMENSIONS, JOINTLY]
    for table in tables:
        assert [s.elo for s in table.scores] == sorted((s.elo for s in table.scores), reverse=True)
        assert all(s.low <= s.elo <= s.high for s in table.scores)
    assert tables[-1].keys == len({one.key for one in golden()[0]})


def test_counts_of_results():
    verdicts = [
        PairVerdict("q", "t", "1", "a", "b", "first"),
        PairVerdict("q", "t", "1", "b", "a", "second"),
        PairVerdict("q", "t", "2", "a", "b", "tie"),
        PairVerdict("q", "t", "2", "b", "a", None),
        PairVerdict("q", "t", "3", "a", "b", None),
    ]
    scores = scores_of(rank(verdicts, resamples=2))
    a, b = scores["q", "a"], scores["q", "b"]
    assert (a.wins, a.ties, a.losses, a.matches, a.judged, a.failed) == (1, 1, 0, 2, 3, 2)
    assert (b.wins, b.ties, b.losses, b.matches, b.judged, b.failed) == (0, 1, 1, 2, 3, 2)
    assert rank(verdicts, resamples=2)[0].keys == 2


def test_renaming_methods_changes_nothing():
    verdicts = golden()[0]
    names = dict(zip(("alder", "birch", "cedar", "dogwood"), "zayb", strict=True))
    before = scores_of(rank(verdicts, resamples=50))
    after = scores_of(rank(renamed(verdicts, names), resamples=50))
    for (dimension, method), score in before.items():
        other = dataclasses.asdict(after[dimension, names[method]])
        for name, value in dataclasses.asdict(score).items():
            if name != "method":
                assert other[name] == pytest.approx(value, abs=1e-9), (dimension, method, name)


def test_a_judge_that_always_names_the_first_ranks_nobody():
    tables = rank(ask_all("abc", ["1", "2", "3"], lambda *_: "first"), resamples=10)
    for table in tables:
        assert {(s.elo, s.low, s.high) for s in table.scores} == {(1000.0, 1000.0, 1000.0)}
        assert table.orders.first_rate == 1
    # In one order alone, chosen by name, it would have ranked them.
    fixed = [v for v in ask_all("abc", ["1", "2", "3"], lambda *_: "first") if v.first < v.second]
    assert rank(fixed, resamples=2)[-1].scores[0].elo > 1100


def test_a_method_and_its_copy_are_equal():
    # The judge prefers by name; pictures of a and its copy are the same files.
    def decide(dimension, key, first, second):
        if {first, second} == {"a", "copy"}:
            return "tie"
        return "second" if first == "b" else "first" if second == "b" else "tie"

    for table in rank(ask_all(("a", "b", "copy"), ["1", "2"], decide), resamples=10):
        elo = {s.method: s.elo for s in table.scores}
        assert elo["a"] == elo["copy"]
        assert elo["a"] > 1000 > elo["b"]


def test_ties_are_of_each_dimension():
    rows = drawn_verdicts({"a": 0.5, "b": -0.5}, nu=2.0, matches=100, dimension="vague")
    rows += drawn_verdicts({"a": 0.5, "b": -0.5}, nu=0.1, matches=100, dimension="sharp")
    vague, sharp, _ = rank(rows, resamples=2)
    assert vague.orders.ties > 3 * sharp.orders.ties


def test_methods_that_nothing_connects_are_refused_by_name():
    verdicts = [
        PairVerdict("q", "t", "1", "a", "b", "first"),
        PairVerdict("q", "t", "1", "c", "d", "tie"),
        PairVerdict("r", "t", "1", "b", "c", "first"),
        PairVerdict("r", "t", "1", "a", "b", "first"),
        PairVerdict("r", "t", "1", "c", "d", "first"),
    ]
    with pytest.raises(UserError, match="no comparison in q connects a, b with c, d"):
        rank(verdicts, resamples=2)
    # A failed question connects nothing.
    broken = [*verdicts[:2], PairVerdict("q", "t", "1", "b", "c", None)]
    with pytest.raises(UserError, match="a, b with c, d"):
        rank(broken, resamples=2)
    assert rank(verdicts[2:], resamples=2)


def test_a_dimension_of_failures_alone_is_shown():
    good = drawn_verdicts({"a": 0.5, "b": -0.5}, nu=0.3, matches=20, dimension="good")
    bad = [
        dataclasses.replace(one, dimension="bad", winner=None, failure="refused") for one in good
    ]
    tables = rank([*bad, *good], resamples=5)
    assert [table.dimension for table in tables] == ["bad", "good", JOINTLY]
    assert tables[0].scores == ()
    assert tables[0].orders.failures == {"refused": 20}
    assert tables[1].scores[0].elo == tables[2].scores[0].elo
    assert tables[2].scores[0].failed == 20


def test_no_verdict_at_all_is_an_error():
    with pytest.raises(UserError, match="no verdict with a winner"):
        rank([PairVerdict("q", "t", "1", "a", "b", None)])


def test_keys_are_drawn_once_for_all_dimensions():
    # One dimension is the mirror of the other: whichever keys are drawn, jointly all is even.
    rows = drawn_verdicts({"a": 0.4, "b": -0.4}, nu=0.3, matches=60, dimension="one")
    turn = {"first": "second", "second": "first", "tie": "tie"}
    rows += [dataclasses.replace(v, dimension="two", winner=turn[v.winner]) for v in rows]
    one, _, jointly = rank(rows, resamples=100)
    assert one.scores[0].high - one.scores[0].low > 20
    for score in jointly.scores:
        assert (score.low, score.high) == pytest.approx((1000, 1000), abs=1e-6)


def test_intervals_are_those_of_repeated_studies():
    # The spread of 200 studies, each drawn anew, against one study's interval.
    truth = {"a": 0.4, "b": 0.0, "c": -0.4}
    studies = []
    for seed in range(200):
        outcomes = count_outcomes(drawn_verdicts(truth, nu=0.4, matches=60, seed=seed))
        studies.append(resample_elo(outcomes, np.ones((1, outcomes.by_key.shape[0])))[0])
    low, high = enclose(np.array(studies))
    outcomes = count_outcomes(drawn_verdicts(truth, nu=0.4, matches=60, seed=1000))
    drawn = draw_keys(outcomes.by_key.shape[0], 400, seed=0)
    own_low, own_high = enclose(resample_elo(outcomes, drawn))
    # Widths vary by about a tenth from study to study, and 200 studies know theirs to 7 %.
    np.testing.assert_allclose(own_high - own_low, high - low, rtol=0.35)


def test_draws_are_of_as_many_keys_and_repeat_with_their_seed():
    drawn = draw_keys(7, 50, seed=3)
    assert (drawn.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(drawn, draw_keys(7, 50, seed=3))
    assert (drawn != draw_keys(7, 50, seed=4)).any()


def test_parts_of_a_large_resampling_are_the_whole(monkeypatch):
    outcomes = count_outcomes(combine_orders(golden()[0]))
    drawn = draw_keys(outcomes.by_key.shape[0], 7, seed=0)
    whole = resample_elo(outcomes, drawn)
    size = int(np.prod(outcomes.shape))
    monkeypatch.setattr("step1x_jax.evaluation.pairwise.bootstrap.AT_ONCE", 2 * size)
    np.testing.assert_allclose(resample_elo(outcomes, drawn), whole, atol=1e-9)
