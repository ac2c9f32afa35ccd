"""Pictures side by side with a text."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from step1x_jax.conditioning import picture_row as module
from step1x_jax.conditioning.picture_row import picture_row

RED, BLUE = Image.new("RGB", (200, 100), (200, 0, 0)), Image.new("RGB", (200, 100), (0, 0, 200))


def where(page, colour):
    """(left, top, right, bottom) of a colour, the last two exclusive."""
    ys, xs = np.nonzero((np.asarray(page) == colour).all(-1))
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def ink(page):
    """Where is neither paper nor one of the pictures."""
    x = np.asarray(page).astype(int)
    return (x.max(-1) - x.min(-1) < 30) & (x.max(-1) < 200)


def test_source_left_result_right_text_below():
    page = picture_row([RED, BLUE], "make it blue")
    assert where(page, (200, 0, 0)) == (8, 8, 208, 108)
    assert where(page, (0, 0, 200)) == (216, 8, 416, 108)
    assert page.width == 424
    rows, columns = np.nonzero(ink(page))
    assert rows.min() >= 108
    assert columns.min() >= 8
    assert columns.max() < 416
    assert len(rows) > 50


def test_a_result_of_another_size_is_shown_as_high():
    page = picture_row([RED, BLUE.resize((50, 50))], "x")
    left, top, right, bottom = where(page, (0, 0, 200))
    assert (left, top, right - left, bottom - top) == (216, 8, 100, 100)


def test_long_texts_are_broken_and_cut():
    heights = [
        picture_row([RED, BLUE], text).height
        for text in ("word", "word " * 30, "词" * 60, "word " * 3000, "w" * 9000)
    ]
    assert heights[0] < heights[1] < heights[3] <= heights[4] + 2
    page = picture_row([RED, BLUE], "w" * 9000)
    assert np.nonzero(ink(page))[1].max() < page.width - 8 + 1


def test_letters_that_the_first_font_lacks_are_of_another(monkeypatch):
    """Pillow's own font has no Cyrillic; with another font there are no boxes."""
    module._system_fonts.cache_clear()
    own = ImageFont.load_default(13)
    assert module._drawn(own, "П") == module._drawn(own, module.NOWHERE)
    if not module._system_fonts(13):
        pytest.skip("this system has none of the fonts")
    found = module._font_for("Привет", 13)
    assert module._drawn(found, "П") != module._drawn(found, module.NOWHERE)
    assert module._font_for("hello", 13).getname() == own.getname()
    monkeypatch.setattr(module, "FONTS", ())
    module._system_fonts.cache_clear()
    assert module._font_for("Привет", 13).getname() == own.getname()
    module._system_fonts.cache_clear()
