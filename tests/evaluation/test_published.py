"""What is published, as data."""

import pytest

from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.published import read_published


def test_rows_are_told_apart():
    rows = read_published()
    names = [(r.benchmark, r.method, r.language, r.subset, r.judge, r.date) for r in rows]
    assert len(set(names)) == len(rows)
    assert {row.subset for row in rows} == {"full", "intersection"}
    assert {row.language for row in rows} == {"", "en", "cn"}
    for row in rows:
        assert row.source
        assert row.date.startswith("2025")
        assert row.judge
        assert row.protocol
        if row.benchmark == "gedit":
            assert all(0 <= score <= 10 for score in (*row.scores.values(), *row.tasks.values()))


def test_averages_by_task_are_their_means():
    """Published with three decimals: the mean of eleven is within half a thousandth, rounded."""
    rows = [row for row in read_published() if row.tasks]
    assert len(rows) == 10
    for row in rows:
        assert tuple(row.tasks) == GEDIT.tasks
        assert sum(row.tasks.values()) / 11 == pytest.approx(row.scores["O"], abs=1.01e-3)


def test_the_paper_s_own_row():
    (row,) = [
        row
        for row in read_published()
        if (row.method, row.language, row.subset, row.judge, row.date)
        == ("Step1X-Edit v1.0", "en", "intersection", "GPT-4.1", "2025-04")
    ]
    assert row.scores == {"SC": 7.183, "PQ": 6.818, "O": 6.813}
    assert (row.protocol, row.source) == ("source_size", "arXiv 2504.17761")
    assert not [row for row in read_published() if "FireRed" in row.source]
