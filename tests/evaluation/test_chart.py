"""The radar chart."""

import sys

import numpy as np
import pytest
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.chart import draw_radar

LINE = (31, 119, 180)  # matplotlib's first colour


def reach(path):
    """How far the first line goes up, down, left and right of the circle's middle, in pixels."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    pixels = pixels[: int(0.93 * len(pixels))]  # without the legend
    ys, xs = np.nonzero((abs(pixels - LINE) < 30).all(-1))
    return ys.min(), ys.max(), xs.min(), xs.max()


@pytest.mark.evaluation
def test_the_line_is_as_far_out_as_the_means_are_high(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra [evaluation]")
    spans = []
    for number in (8.0, 4.0):
        path = tmp_path / f"{number}.png"
        draw_radar(path, "O", GEDIT.tasks, {"a": [number] * 11}, highest=10)
        top, bottom, left, right = reach(path)
        spans.append((bottom - top, right - left))
    for large, small in zip(*spans, strict=True):
        assert large / small == pytest.approx(2, rel=0.05)
    turned = tmp_path / "turned.png"
    draw_radar(turned, "O", GEDIT.tasks, {"a": [9.0] + [2.0] * 10}, highest=10)
    top, bottom, _, _ = reach(turned)
    whole = reach(tmp_path / "8.0.png")
    middle = (whole[0] + whole[1]) / 2
    assert middle - top > 3 * (bottom - middle)  # the first task is at the top


@pytest.mark.evaluation
def test_an_absent_mean_leaves_a_gap(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra [evaluation]")
    for name, first in (("whole", 8.0), ("gap", None)):
        draw_radar(tmp_path / name, "O", GEDIT.tasks, {"a": [first] + [8.0] * 10}, highest=10)
    assert reach(tmp_path / "gap")[0] > reach(tmp_path / "whole")[0]


def test_what_cannot_be_drawn_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="needs three tasks, and O has 2"):
        draw_radar(tmp_path / "a.png", "O", ["x", "y"], {"a": [1, 2]}, highest=10)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(UserError, match="charts need matplotlib: pip install"):
        draw_radar(tmp_path / "a.png", "O", ["x", "y", "z"], {"a": [1, 2, 3]}, highest=10)
    assert not list(tmp_path.iterdir())
