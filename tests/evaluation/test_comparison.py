"""Methods and judges against each other."""

import numpy as np
import pytest
from scipy import stats

from step1x_jax.evaluation.benchmarks import GEDIT, IMGEDIT
from step1x_jax.evaluation.comparison import compare, largest_disagreements, pair_samples
from step1x_jax.evaluation.statistics import score_samples, summarize
from tests.evaluation.scores import drawn, every_task, judgement, without


def scored(judgements):
    return [one for one in score_samples(judgements, GEDIT) if one.id.language == "en"]


def compared(first, second):
    return compare(pair_samples(scored(first), scored(second)), GEDIT)


def test_a_method_against_itself_is_exactly_equal():
    for judgements in (drawn(0, repeats=3), drawn(1, per_task=7)):
        found = compared(judgements, judgements)
        for one in (found.average, *found.tasks.values()):
            assert one.means == {"SC": 0.0, "PQ": 0.0, "O": 0.0}
            assert set(one.intervals.values()) == {(0.0, 0.0)}
            assert (one.wins, one.losses, one.ties) == (0, 0, one.n)
        assert found.tasks["ps_human"].rank_correlation == pytest.approx(1)
    assert largest_disagreements(pair_samples(scored(drawn(0)), scored(drawn(0))), 10) == []


def test_differences_are_those_of_the_same_samples():
    first, second = drawn(0, per_task=6), drawn(1, per_task=6)
    first[0] = without(first[0].id.task, "missing", first[0].id.key, first[0].id.language)
    found = compared(first, second)
    ours, theirs = ({one.id: one.scores for one in scored(x)} for x in (first, second))
    means = []
    for task in GEDIT.tasks:
        ids = [i for i in ours if i.task == task and ours[i] is not None and theirs[i] is not None]
        gaps = np.array([ours[i][2] - theirs[i][2] for i in ids])
        one = found.tasks[task]
        assert one.n == len(ids) == (5 if task == GEDIT.tasks[0] else 6)
        assert one.means["O"] == pytest.approx(gaps.mean(), abs=1e-12)
        assert (one.wins, one.ties, one.losses) == (
            sum(gaps > 0), sum(gaps == 0), sum(gaps < 0)
        )  # fmt: skip
        rank = stats.spearmanr([ours[i][2] for i in ids], [theirs[i][2] for i in ids]).statistic
        assert one.rank_correlation == pytest.approx(rank, abs=1e-12)
        means.append(gaps.mean())
    total = found.average
    assert total.means["O"] == pytest.approx(np.mean(means), abs=1e-12)
    assert total.means["O"] == pytest.approx(total.first["O"] - total.second["O"], abs=1e-12)
    assert total.n == total.wins + total.ties + total.losses == 65
    assert total.rank_correlation is None
    turned = compared(second, first).average
    assert (turned.wins, turned.losses) == (total.losses, total.wins)
    assert turned.means["O"] == pytest.approx(-total.means["O"], abs=1e-12)


def test_pairs_are_drawn_together():
    """What makes samples hard for both does not widen the interval of their difference."""
    first = drawn(0, per_task=20)
    easier = [
        judgement(
            one.id.task, [min(x + 0.5, 10) for x in one.scores["semantics"]],
            one.scores["quality"], one.id.key, one.id.language,
        )
        for one in first
    ]  # fmt: skip
    found = compared(easier, first).average
    low, high = found.intervals["SC"]
    assert 0 < low < found.means["SC"] < high <= 0.5
    alone = summarize(scored(first), GEDIT).average.intervals["SC"]
    assert high - low < 0.2 * (alone[1] - alone[0])


def test_tasks_without_common_samples_leave_no_average():
    first, second = every_task([(1, 1)] * 11), every_task([(2, 2)] * 11)
    second[4] = without(second[4].id.task, "refused")
    found = compared(first, second)
    assert found.empty == ("ps_human",)
    assert found.average.means == {}
    assert found.average.losses == 10
    assert found.tasks["ps_human"].n == 0
    assert found.tasks["color_alter"].means["O"] == -1
    assert found.tasks["color_alter"].intervals == {}  # nobody knows, of one sample
    assert found.tasks["color_alter"].rank_correlation is None
    assert compare([], IMGEDIT).average.n == 0


def test_the_largest_disagreements_come_first():
    first = every_task([(n, n) for n in range(11)])
    second = every_task([(5, 5)] * 11)
    pairs = pair_samples(scored(first), scored(second))
    found = largest_disagreements(pairs, 10)
    gaps = [abs(one.scores[2] - other.scores[2]) for one, other in found]
    assert gaps == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]
    assert [one.id for one, _ in found[:2]] == sorted(one.id for one, _ in found[:2])
    assert largest_disagreements(pairs[::-1], 3) == found[:3]
