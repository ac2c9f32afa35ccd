import dataclasses

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.embedded import gates, text
from step1x_jax.curation.embedded.descriptions import SignData

pytestmark = pytest.mark.curation
SHAPE = (200, 300)
SIGN = SignData(
    {"en": "on the wall", "cn": "墙上"},
    [(50, 60), (250, 60), (250, 140), (50, 140)],
    "dark",
    (5, 2),
)


@pytest.mark.parametrize("word", ["OPEN", "Good Morning", "50% OFF"])
def test_a_text_that_was_shrunk_to_fit_is_complete(word):
    drawn = text.draw_text(word, text.FONTS[0], SIGN, SHAPE)
    assert text.text_fault(drawn.shown, drawn.height) is None
    rows, columns = np.nonzero(drawn.alpha)
    assert columns.min() >= 50
    assert columns.max() < 250
    assert rows.min() >= 60
    assert rows.max() < 140
    # As large as it fits: it fills the sign in one direction.
    assert max(np.ptp(columns) / 200, np.ptp(rows) / 80) > 0.8


def test_a_clipped_word_is_found():
    """At twice the size that fits, the word's ends are missing on the sign."""
    corners = np.array(SIGN.corners, np.float32)
    canvas = (200 * text.FINE, 80 * text.FINE)
    fits = text.draw_on_sign("WELCOME", text.FONTS[0], 100, canvas, corners, SHAPE)
    assert fits.shown > gates.LEAST_TEXT
    clipped = text.draw_on_sign("WELCOME", text.FONTS[0], 250, canvas, corners, SHAPE)
    assert text.text_fault(clipped.shown, clipped.height) == "text_cut_off"


def test_a_word_that_leaves_the_picture_is_found():
    outside = dataclasses.replace(SIGN, corners=[(x + 100, y) for x, y in SIGN.corners])
    drawn = text.draw_text("WELCOME", text.FONTS[0], outside, SHAPE)
    assert drawn.shown < 0.9
    assert text.text_fault(drawn.shown, drawn.height) == "text_cut_off"


def test_letters_that_nobody_can_read_are_found():
    small = dataclasses.replace(SIGN, corners=[(x / 5, y / 5) for x, y in SIGN.corners])
    drawn = text.draw_text("WELCOME", text.FONTS[0], small, SHAPE)
    assert text.text_fault(drawn.shown, drawn.height) == "letters_too_small"


def test_ink_keeps_to_its_letters_and_its_colour():
    pixels = np.full((*SHAPE, 3), 200, np.uint8)
    drawn = text.draw_text("STOP", text.FONTS[0], SIGN, SHAPE)
    red = text.INKS["dark"][1]
    painted = text.paint(pixels, drawn.alpha, red)
    np.testing.assert_array_equal(painted[drawn.alpha == 0], 200)
    inside = painted[drawn.alpha > 0.99].astype(int)
    assert (inside[:, 0] > inside[:, 1] + 80).all()
