"""The chart of a ranking."""

import io

import numpy as np
import pytest
from PIL import Image

from step1x_jax.evaluation.pairwise.ranking import rank
from tests.evaluation.pairwise.examples import golden, renamed

pytestmark = pytest.mark.evaluation
pytest.importorskip("matplotlib")


def test_the_chart_has_a_panel_for_each_table(tmp_path):
    from step1x_jax.evaluation.pairwise.rank_chart import draw_ranking

    names = dict(
        zip(("alder", "birch", "cedar", "dogwood"), ("$a$", "b_1", "c^", "d"), strict=True)
    )
    tables = rank(renamed(golden()[0], names), resamples=20)
    pictures = []
    for shown in (tables, tables[-2:]):
        draw_ranking(tmp_path / "rank.png", shown)
        pictures.append(Image.open(io.BytesIO((tmp_path / "rank.png").read_bytes())))
    assert pictures[0].format == "PNG"
    assert pictures[0].width - pictures[1].width == 2 * 2.5 * 120  # two panels less
    assert np.asarray(pictures[0].convert("L")).std() > 5  # something is drawn
