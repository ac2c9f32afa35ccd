import io

import numpy as np
import pytest
from PIL import Image

from step1x_jax.quickstart import report_picture
from step1x_jax.quickstart.held_out import HeldOutEdit

KINDS = ("fog", "night", "frame")
EDITS = [
    HeldOutEdit("cat", kind, language, {"en": "make it", "cn": "改成"}[language], "", "")
    for language in ("en", "cn", "en", "cn")
    for kind in KINDS
]


def test_examples_show_every_kind_once():
    english = report_picture.choose_examples(EDITS, chinese=False)
    assert [EDITS[i].kind for i in english] == list(KINDS)
    assert {EDITS[i].language for i in english} == {"en"}
    both = report_picture.choose_examples(EDITS, chinese=True)
    assert [EDITS[i].language for i in both] == ["en", "en", "cn"]


def test_smooth_is_the_mean_of_the_last_points():
    losses = np.random.default_rng(0).random(20)
    expected = [losses[max(0, i - 3) : i + 1].mean() for i in range(20)]
    # A difference of sums of 20 numbers below 1: rounding of about 1e-15.
    np.testing.assert_allclose(report_picture.trailing_mean(losses, 4), expected, rtol=1e-12)


@pytest.mark.quickstart
def test_fonts():
    assert report_picture.find_font(set("make it night")) is not None
    assert report_picture.find_font({"\U000e0001"}) is None  # a tag that only boxes stand for


@pytest.mark.quickstart
@pytest.mark.parametrize("with_curve", [True, False])
def test_draw(with_curve):
    rng = np.random.default_rng(0)
    shapes = [((16, 16, 3), (16, 24, 3), (24, 16, 3))[i % 3] for i in range(len(EDITS))]
    pictures = [[rng.integers(0, 256, shape, np.uint8) for shape in shapes] for _ in range(3)]
    curve = [{"step": 25 * i, "loss": 1 / i} for i in range(1, 9)] if with_curve else []
    file = io.BytesIO()
    missing = report_picture.draw_report(file, EDITS, *pictures, curve, "a title")
    assert missing is None or "Chinese" in missing
    image = Image.open(file)
    assert image.format == "PNG"
    assert (image.width > 1400) == with_curve
