"""One ranking of several judges, and what is refused."""

import dataclasses

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.pair_files import (
    JUDGE,
    find_pair_judges,
    pair_folder,
    read_pairs,
    write_pairs,
)
from step1x_jax.evaluation.pairwise.ranking import rank
from step1x_jax.evaluation.pairwise.ranking_of_judges import JudgeVerdicts, rank_judged
from tests.evaluation.pairwise.examples import DIMENSIONS, golden

FACTS = {"benchmark": "geditv2", "model": "m"}


@pytest.fixture
def judged():
    verdicts, _ = golden()
    consistency = [one for one in verdicts if one.dimension == DIMENSIONS[2]]
    others = [one for one in verdicts if one.dimension != DIMENSIONS[2]]
    missing = {"alder": {"missing": 2, "unreadable": 0}, "gone": {"missing": 9, "unreadable": 0}}
    more = {"alder": {"missing": 1, "unreadable": 3}}
    return {
        "gpt": JudgeVerdicts(others, {**FACTS, "pictures": missing}),
        "pvc": JudgeVerdicts(consistency, {**FACTS, "pictures": more}),
    }


def test_judges_of_different_dimensions_make_one_ranking(judged):
    ranking = rank_judged(judged, resamples=10)
    whole = [*judged["gpt"].verdicts, *judged["pvc"].verdicts]
    assert ranking.tables == rank(whole, resamples=10)
    assert ranking.missing == {"alder": {"missing": 2, "unreadable": 3}}
    assert ranking.judges == {"gpt": FACTS, "pvc": FACTS}
    assert ranking.published is not None


def test_some_methods_alone(judged):
    ranking = rank_judged(judged, ["alder", "cedar"], resamples=5)
    assert {s.method for table in ranking.tables for s in table.scores} == {"alder", "cedar"}
    with pytest.raises(UserError, match="elm has not been compared; those that have are"):
        rank_judged(judged, ["alder", "elm"])


def test_other_benchmarks_have_no_published_rows(judged):
    other = {
        name: JudgeVerdicts(one.verdicts, {"benchmark": "gedit"}) for name, one in judged.items()
    }
    assert rank_judged(other, resamples=2).published is None


def test_judges_that_cannot_be_joined_are_refused(judged):
    twice = {**judged, "third": judged["pvc"]}
    with pytest.raises(UserError, match="pvc and third both judged visual_consistency"):
        rank_judged(twice)
    other = {**judged, "pvc": JudgeVerdicts(judged["pvc"].verdicts, {"benchmark": "gedit"})}
    with pytest.raises(UserError, match=r"different benchmarks \(gpt geditv2, pvc gedit\)"):
        rank_judged(other)


def test_a_picture_that_changed_between_judges_is_refused(judged):
    first, second = (
        [dataclasses.replace(v, pictures=(v.first + salt, v.second)) for v in judged[name].verdicts]
        for name, salt in (("gpt", ""), ("pvc", "new"))
    )
    with pytest.raises(UserError, match="changed between verdicts"):
        rank_judged({"gpt": JudgeVerdicts(first, FACTS), "pvc": JudgeVerdicts(second, FACTS)})


def test_folders_of_judges(tmp_path, judged):
    with pytest.raises(UserError, match="no verdicts on pairs; first run judge --against"):
        find_pair_judges(str(tmp_path))
    for name, one in judged.items():
        write_pairs(pair_folder(str(tmp_path), name), *one)
    assert find_pair_judges(str(tmp_path)) == ["gpt", "pvc"]
    assert JudgeVerdicts(*read_pairs(tmp_path / "pairs" / "pvc")) == judged["pvc"]
    with pytest.raises(UserError, match="does not exist"):
        read_pairs(tmp_path / "pairs" / "none")
    (tmp_path / "pairs" / "pvc" / JUDGE).write_text('{"pictures": {"alder": 3}}')
    with pytest.raises(UserError, match="pictures"):
        read_pairs(tmp_path / "pairs" / "pvc")
    with pytest.raises(UserError, match="the judge's name"):
        pair_folder(str(tmp_path), "../x")
