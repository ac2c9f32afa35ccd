import itertools

import numpy as np
import pytest

from step1x_jax.quickstart import edits, photographs
from step1x_jax.quickstart.report import psnr

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
TASKS = {  # GEdit-Bench's names
    "background_change",
    "color_alter",
    "style_change",
    "subject-add",
    "text_change",
    "tone_transfer",
}


def flat(*colour):
    return np.broadcast_to(np.array(colour, np.uint8), (40, 64, 3))


@pytest.mark.parametrize("kind", edits.KINDS.values(), ids=lambda kind: kind.name)
def test_edits_are_pure(kind):
    before = IMAGE.copy()
    result = kind.apply(IMAGE)
    assert result.shape == IMAGE.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(IMAGE, before)
    np.testing.assert_array_equal(result, kind.apply(before))


def test_instructions():
    kinds = edits.KINDS.values()
    assert len(kinds) >= 10
    assert {kind.task for kind in kinds} <= TASKS
    phrasings = list(itertools.chain(*(kind.english + kind.chinese for kind in kinds)))
    assert len(set(phrasings)) == len(phrasings)  # none asks for two kinds
    for kind in kinds:
        assert min(len(kind.english), len(kind.chinese)) >= 4
        assert all(text.isascii() for text in kind.english)
        assert not any(text.isascii() for text in kind.chinese)
    # A quote or an apostrophe spells out what follows, token by token.
    assert not set("".join(phrasings)) & set("'\"“”‘’")


def test_negative_twice_is_the_picture():
    np.testing.assert_array_equal(edits.negative(edits.negative(IMAGE)), IMAGE)
    assert edits.negative(flat(0, 100, 255))[0, 0].tolist() == [255, 155, 0]


def test_night_is_darker_and_blue():
    result = edits.night(flat(200, 180, 160)).astype(int)
    assert result.max() < 160
    assert (result[..., 2] > result[..., 0]).all()


def test_sunset_is_orange_above_and_violet_below():
    result = edits.sunset(flat(150, 150, 150)).astype(int)
    red, green, blue = np.moveaxis(result, -1, 0)
    assert (red > green).all()
    assert (green[0] > blue[0]).all()
    assert (blue[-1] > green[-1] - 10).all()


def test_fog_takes_contrast_most_at_the_top():
    result = edits.fog(IMAGE).astype(float)
    assert result[:10].std() < result[-10:].std() < IMAGE.std() / 1.5
    assert result.mean() > 150


def test_vignette_keeps_the_centre_and_blackens_the_corners():
    result = edits.vignette(IMAGE)
    np.testing.assert_array_equal(result[18:22, 28:36], IMAGE[18:22, 28:36])
    assert result[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0


def test_sketch_is_grey_with_lines_at_edges():
    image = np.full((40, 64, 3), 200, np.uint8)
    image[:, 32:] = 60
    result = edits.sketch(image).astype(int)
    assert (result == result[..., :1]).all()
    assert result[:, 32].max() < result[:, 63].min() - 20  # the dark side of the edge
    assert np.ptp(edits.sketch(flat(90, 120, 70))) == 0


def test_frame_is_white_around_the_picture():
    result = edits.frame(IMAGE)
    np.testing.assert_array_equal(result[5:-5, 5:-5], IMAGE[5:-5, 5:-5])
    outside = np.ones((40, 64), bool)
    outside[5:-5, 5:-5] = False
    assert (result[outside] == 255).all()


def test_caption_writes_below_the_picture():
    result = edits.caption(IMAGE)
    np.testing.assert_array_equal(result[:28], IMAGE[:28])
    strip = result[28:].reshape(-1, 3)
    assert 0.4 < np.mean(np.all(strip == (255, 220, 0), axis=1)) < 0.95
    assert np.any(strip.sum(axis=1) < 150)  # ink


def test_red_ball_is_in_the_middle():
    result = edits.red_ball(IMAGE).astype(int)
    red, green, blue = result[20, 32]
    assert red > 150 > max(green, blue) + 50
    np.testing.assert_array_equal(result[:, :18], IMAGE[:, :18])  # radius 12 around column 32
    np.testing.assert_array_equal(result[:7], IMAGE[:7])


def test_hue_swap_turns_red_blue_and_leaves_grey():
    assert edits.hue_swap(flat(200, 100, 50))[0, 0].argmax() == 2
    np.testing.assert_array_equal(edits.hue_swap(flat(77, 77, 77)), flat(77, 77, 77))


@pytest.mark.quickstart
@pytest.mark.parametrize("kind", edits.KINDS.values(), ids=lambda kind: kind.name)
def test_copying_the_source_scores_badly(kind):
    for crops in photographs.held_out_crops(128).values():
        assert psnr(crops, np.stack([kind.apply(crop) for crop in crops])).mean() < 17
