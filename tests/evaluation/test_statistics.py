"""Averages and intervals, against formulas of their own; golden numbers: tests/golden.py."""

import dataclasses
import math

import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT, GEDIT_V2, IMGEDIT
from step1x_jax.evaluation.judgements import Judgement
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.evaluation.statistics import RESAMPLES, resample, score_samples, summarize
from tests.evaluation.scores import drawn, every_task, judgement, without

ONES = [(1, 1)] * 11
SMALL = dataclasses.replace(GEDIT, tasks=("a", "b"))


def summary(judgements, benchmark=GEDIT):
    return summarize(score_samples(judgements, benchmark), benchmark)


def test_scores_of_a_sample_are_minima_and_their_geometric_mean():
    (one,) = score_samples([judgement("ps_human", [9, 4], [8.5, 9])], GEDIT)
    assert one.scores.tolist() == [4, 8.5, math.sqrt(4 * 8.5)]
    (one,) = score_samples([judgement("ps_human", [0, 10], [10, 10])], GEDIT)
    assert one.scores.tolist() == [0, 10, 0]


def test_o_is_averaged_as_it_is_and_tasks_count_the_same():
    """Neither the O of the means (here 2.5 and 1) nor the mean over samples (2/3)."""
    judgements = [
        judgement("a", [0], [5], "0"), judgement("a", [5], [0], "1"), judgement("b", [4], [1], "2"),
    ]  # fmt: skip
    found = summary(judgements, SMALL)
    assert found.tasks["a"].means == {"SC": 2.5, "PQ": 2.5, "O": 0}
    assert found.average.means == {"SC": (2.5 + 4) / 2, "PQ": (2.5 + 1) / 2, "O": 1}
    by_samples = summary(judgements, dataclasses.replace(SMALL, mean_of="samples"))
    assert by_samples.average.means == pytest.approx({"SC": 3, "PQ": 2, "O": 2 / 3}, abs=1e-15)


def test_nothing_is_rounded():
    found = summary([judgement("a", [1], [2]), judgement("b", [2], [4])], SMALL)
    assert found.average.means["O"] == (math.sqrt(2) + math.sqrt(8)) / 2


def test_what_has_no_score_is_left_out_and_counted():
    """Neither zero nor a guess; pictures that are not there are not the judge's failures."""
    judgements = every_task([(6, 6)] * 11) + [
        without("ps_human", status, f"{n}")
        for n, status in enumerate(["missing", "unreadable", "unparsable", "refused", "failed"], 1)
    ]
    found = summary(judgements)
    cell = found.tasks["ps_human"]
    assert (cell.n, cell.returned, cell.total) == (1, 4, 6)
    assert cell.means["O"] == 6
    assert (cell.judge_failures, found.average.judge_failures) == (3, 3)
    assert cell.statuses == dict.fromkeys(cell.statuses, 1)
    assert len(cell.statuses) == 5
    assert found.average.means["O"] == 6
    assert (found.average.n, found.average.returned, found.average.total) == (11, 14, 16)


def test_an_empty_task_leaves_no_average():
    judgements = every_task(ONES)
    del judgements[3]
    judgements[7] = without(judgements[7].id.task, "refused")
    found = summary(judgements)
    assert found.empty == ("motion_change", "subject-replace")
    assert (found.average.means, found.average.intervals) == ({}, {})
    assert found.tasks["motion_change"].means == {}
    assert found.tasks["motion_change"].total == 0
    assert found.tasks["ps_human"].means["O"] == 1
    assert found.average.n == 9


def test_the_interval_is_that_of_a_mean_of_means():
    """Percentiles of many draws are nearly normal: half a width is 1.96 standard errors.

    Of 2000 draws the width is known within about 4 %; the drawn variance is the biased one.
    """
    scored = score_samples(drawn(0, per_task=40), GEDIT)
    english = [one for one in scored if one.id.language == "en"]
    found = summarize(english, GEDIT)
    values = {
        task: [one.scores[2] for one in english if one.id.task == task] for task in GEDIT.tasks
    }
    errors = {task: np.var(of) / len(of) for task, of in values.items()}
    low, high = found.average.intervals["O"]
    expected = 2 * 1.96 * math.sqrt(sum(errors.values())) / 11
    assert high - low == pytest.approx(expected, rel=0.08)
    assert (low + high) / 2 == pytest.approx(found.average.means["O"], abs=0.1 * expected)
    low, high = found.tasks["ps_human"].intervals["O"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(errors["ps_human"]), rel=0.08)


def test_of_one_sample_there_is_no_interval():
    judgements = [
        judgement("a", [1], [1]), judgement("b", [2], [2]), judgement("b", [4], [4], "1"),
    ]  # fmt: skip
    found = summary(judgements, SMALL)
    assert found.average.means["O"] == 2
    assert (found.tasks["a"].intervals, found.average.intervals) == ({}, {})
    assert found.tasks["b"].intervals["O"] == (2, 4)


def test_samples_are_drawn_within_tasks():
    """Tasks that differ from each other alone have no width."""
    judgements = [
        judgement(task, [n], [n], f"{k}") for n, task in enumerate(GEDIT.tasks) for k in range(5)
    ]
    found = summary(judgements)
    assert found.average.intervals["O"] == pytest.approx((5, 5), abs=1e-12)


def test_draws_are_the_same_every_time_and_of_every_method():
    values = {"a": np.arange(6.0).reshape(3, 2), "b": np.zeros((0, 2)), "c": np.ones((4, 2))}
    drawn_means = resample(values)
    assert set(drawn_means) == {"a", "c"}
    assert drawn_means["a"].shape == (RESAMPLES, 2)
    assert np.array_equal(drawn_means["a"], resample(values)["a"])
    more = resample({"a": values["a"] + 1, "b": values["b"], "c": values["c"]})
    np.testing.assert_allclose(more["a"], drawn_means["a"] + 1, rtol=1e-12)
    assert len(np.unique(drawn_means["a"][:, 0])) > 5
    other = resample({"z": values["a"], "a": values["a"]})
    assert not np.array_equal(other["z"], other["a"])  # tasks are drawn independently
    first = summary(drawn(1)[::-1]), summary(drawn(1))
    assert first[0] == first[1]


def test_repeats_are_averaged_and_their_spread_is_told():
    judgements = drawn(3, repeats=3)
    scored = [one for one in score_samples(judgements, GEDIT) if one.id.language == "en"]
    found = summarize(scored, GEDIT)
    averages = []
    for repeat in range(3):
        single = [one for one in judgements if one.repeat == repeat and one.id.language == "en"]
        averages.append(summary(single).average.means["O"])
    assert found.average.means["O"] == pytest.approx(np.mean(averages), abs=1e-12)
    assert found.noise["O"] == pytest.approx(np.std(averages, ddof=1), abs=1e-12)
    assert found.average.n == 44
    assert summary(drawn(3)).noise is None


def test_a_repeat_that_failed_leaves_the_others():
    judgements = [
        judgement("a", [4], [4]), without("a", "failed", repeat=1),
        judgement("a", [8], [8], repeat=2), judgement("b", [1], [1]),
        judgement("b", [1], [1], repeat=1), judgement("b", [1], [1], repeat=2),
    ]  # fmt: skip
    found = summary(judgements, SMALL)
    assert found.tasks["a"].means["O"] == 6
    assert (found.tasks["a"].n, found.tasks["a"].judge_failures) == (1, 1)
    assert found.noise is None  # no sample of "a" has all repeats


def test_benchmarks_of_means():
    judgements = [
        Judgement(SampleId(task, "", key), "ok", {"edit": numbers})
        for task, key, numbers in [
            ("add", "0", (1, 2, 3)), ("add", "1", (5, 5, 5)), ("extract", "2", (1, 1, 2)),
        ]
    ]  # fmt: skip
    found = summary(judgements, IMGEDIT)
    assert found.tasks["add"].means == {"score": 3.5}
    assert found.average.means["score"] == pytest.approx((3.5 + 4 / 3) / 2, abs=1e-15)
    assert summarize([], IMGEDIT).average.means == {}


def test_judgements_of_another_benchmark_are_refused():
    with pytest.raises(UserError, match="judged by pairs"):
        score_samples([], GEDIT_V2)
    with pytest.raises(UserError, match="is of no task of gedit"):
        score_samples([judgement("add", [1], [1])], GEDIT)
    half = Judgement(SampleId("ps_human", "en", "0"), "ok", {"semantics": (1.0,), "quality": ()})
    with pytest.raises(UserError, match="has no numbers for quality"):
        score_samples([half], GEDIT)
