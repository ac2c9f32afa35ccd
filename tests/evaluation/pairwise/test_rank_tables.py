"""What is printed and written of rankings, and the published leaderboard beside them."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import scipy.stats

from step1x_jax.evaluation.pairwise.published import read_published
from step1x_jax.evaluation.pairwise.rank_tables import Ranking, to_csv, to_json, to_markdown
from step1x_jax.evaluation.pairwise.ranking import JOINTLY, rank
from tests.evaluation.pairwise.examples import DIMENSIONS, golden


@pytest.fixture(scope="module")
def ranking():
    return Ranking(
        tables=rank(golden()[0], resamples=20),
        judges={"judge": {"model": "m", "provider": "p"}},
        missing={"alder": {"missing": 3, "unreadable": 1}},
        published=read_published(),
    )


def test_markdown_has_dimensions_joint_scores_and_published_rows_apart(ranking):
    text = to_markdown(ranking)
    first, *_ = text.split("\n## ")
    overview = next(line for line in first.splitlines() if line.startswith("| method"))
    assert overview == f"| method | {' | '.join((*DIMENSIONS, JOINTLY))} |"
    titles = [part.splitlines()[0] for part in text.split("\n## ")[1:]]
    assert titles[:4] == [*DIMENSIONS, "all dimensions jointly"]
    assert titles[4].startswith("Published")
    measured, published = text.split("\n## Published")
    assert "Bagel" in published
    assert "Bagel" not in measured
    assert "alder" not in published
    assert "| alder | 1067.9" in measured
    assert "| 3 | 1 |" in measured  # its missing and unreadable pictures
    assert "the first picture wins 58.6 % of the decisive ones" in measured
    assert "these agree in 21.3 %" in measured
    assert "without a verdict: 7" in measured
    assert text.rstrip().endswith("- **judge**: model m; provider p")


def test_cells_of_tables_do_not_break():
    tables = rank([dataclasses.replace(v, first=v.first + "|x") for v in golden()[0]], resamples=2)
    text = to_markdown(Ranking(tables, {}, {}))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") in (6, 13) for line in rows)
    assert "birch\\|x" in text


def test_csv_has_a_row_for_each_method_and_dimension(ranking):
    rows = list(csv.DictReader(io.StringIO(to_csv(ranking))))
    measured = [row for row in rows if row["rows"] == "measured"]
    assert len(measured) == 4 * 4
    assert len(rows) - len(measured) == 4 * 16
    cells = {(row["dimension"], row["method"]): row for row in rows}
    score = next(s for s in ranking.tables[1].scores if s.method == "birch")
    cell = cells["visual_quality", "birch"]
    assert float(cell["elo"]) == score.elo
    assert (int(cell["matches"]), int(cell["failed"])) == (score.matches, score.failed)
    assert cells[JOINTLY, "alder"]["missing"] == "3"
    bagel = cells["visual_quality", "Bagel"]
    assert (bagel["rows"], bagel["elo"], bagel["low"], bagel["high"]) == (
        "published", "694", "677", "710",
    )  # fmt: skip


def test_json_has_everything(ranking):
    values = json.loads(json.dumps(to_json(ranking), allow_nan=False))
    assert [table["dimension"] for table in values["tables"]] == [*DIMENSIONS, JOINTLY]
    assert values["tables"][0]["scores"][0]["method"] == "alder"
    assert values["tables"][2]["orders"]["both_orders"] == 108
    assert len(values["published"]["rows"]) == 16
    assert values["missing"] == {"alder": {"missing": 3, "unreadable": 1}}


def test_the_published_leaderboard_says_what_is_known_of_it():
    # Spearman's correlations with the arena over its own table, as first measured.
    published = read_published()
    arena = [row.arena_elo for row in published.rows]
    for name, expected in (
        ("overall", 0.929),
        ("instruction_following", 0.979),
        ("visual_quality", 0.688),
        ("visual_consistency", 0.118),
    ):
        elos = [getattr(row, name)[0] for row in published.rows]
        assert scipy.stats.spearmanr(elos, arena).statistic == pytest.approx(expected, abs=1e-3)
    overall = [row.overall[0] for row in published.rows]
    assert (np.diff(overall) <= 0).all()
    assert set(published.judges) == set(DIMENSIONS)
