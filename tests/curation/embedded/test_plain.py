import itertools

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.embedded import painting, plain, weather
from step1x_jax.curation.embedded.crops import WHOLE, photograph, random_crop
from step1x_jax.curation.embedded.plain import PLAIN
from step1x_jax.curation.embedded.plain_texts import PLAIN_TEMPLATES
from step1x_jax.quickstart.report import psnr

pytestmark = pytest.mark.curation

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


def flat(*colour):
    return np.broadcast_to(np.array(colour, np.uint8), (40, 64, 3))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("turned", [False, True])
def test_edits_are_pure(name, turned):
    apply = PLAIN[name].apply
    picture = np.ascontiguousarray(IMAGE.transpose(1, 0, 2)) if turned else IMAGE
    before = picture.copy()
    result = apply(picture)
    assert result.shape == picture.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(result, apply(before))


def test_instructions():
    assert [(kind.category, name) for name, kind in PLAIN.items()] == list(PLAIN_TEMPLATES)
    phrasings = list(itertools.chain(*(w["en"] + w["cn"] for w in PLAIN_TEMPLATES.values())))
    assert len(set(phrasings)) == len(phrasings)  # none asks for two kinds
    for wordings in PLAIN_TEMPLATES.values():
        assert min(len(wordings["en"]), len(wordings["cn"])) >= 4
        assert all(text.isascii() for text in wordings["en"])
        assert not any(text.isascii() for text in wordings["cn"])
    # A quote or an apostrophe spells out what follows, token by token.
    assert not set("".join(phrasings)) & set("'\"“”‘’")


def test_negative_twice_is_the_picture():
    np.testing.assert_array_equal(plain.negative(plain.negative(IMAGE)), IMAGE)
    assert plain.negative(flat(0, 100, 255))[0, 0].tolist() == [255, 155, 0]


def test_night_is_darker_and_blue():
    result = weather.night(flat(200, 180, 160)).astype(int)
    assert result.max() < 160
    assert (result[..., 2] > result[..., 0]).all()


def test_sunset_is_orange_above_and_violet_below():
    result = weather.sunset(flat(150, 150, 150)).astype(int)
    red, green, blue = np.moveaxis(result, -1, 0)
    assert (red > green).all()
    assert (green[0] > blue[0]).all()
    assert (blue[-1] > green[-1] - 10).all()


def test_mist_takes_contrast_most_at_the_top():
    result = weather.mist(IMAGE).astype(float)
    assert result[:10].std() < result[-10:].std() < IMAGE.std() / 1.5
    assert result.mean() > 150


def test_vignette_keeps_the_centre_and_blackens_the_corners():
    result = plain.vignette(IMAGE)
    np.testing.assert_array_equal(result[18:22, 28:36], IMAGE[18:22, 28:36])
    assert result[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0


def test_line_drawing_is_grey_with_lines_at_edges():
    image = np.full((40, 64, 3), 200, np.uint8)
    image[:, 32:] = 60
    result = painting.line_drawing(image).astype(int)
    assert (result == result[..., :1]).all()
    assert result[:, 32].max() < result[:, 63].min() - 20  # the dark side of the edge
    assert np.ptp(painting.line_drawing(flat(90, 120, 70))) == 0


def test_frame_is_white_around_the_picture():
    result = plain.frame(IMAGE)
    np.testing.assert_array_equal(result[5:-5, 5:-5], IMAGE[5:-5, 5:-5])
    outside = np.ones((40, 64), bool)
    outside[5:-5, 5:-5] = False
    assert (result[outside] == 255).all()


def test_caption_writes_below_the_picture():
    result = plain.caption(IMAGE)
    np.testing.assert_array_equal(result[:28], IMAGE[:28])
    strip = result[28:].reshape(-1, 3)
    assert 0.4 < np.mean(np.all(strip == (255, 220, 0), axis=1)) < 0.95
    assert np.any(strip.sum(axis=1) < 150)  # ink


def test_red_ball_is_in_the_middle():
    result = plain.red_ball(IMAGE).astype(int)
    red, green, blue = result[20, 32]
    assert red > 150 > max(green, blue) + 50
    np.testing.assert_array_equal(result[:, :18], IMAGE[:, :18])  # radius 12 around column 32
    np.testing.assert_array_equal(result[:7], IMAGE[:7])


def test_hue_swap_turns_red_blue_and_leaves_grey():
    assert plain.hue_swap(flat(200, 100, 50))[0, 0].argmax() == 2
    np.testing.assert_array_equal(plain.hue_swap(flat(77, 77, 77)), flat(77, 77, 77))


@pytest.mark.parametrize("name", PLAIN)
def test_copying_the_source_scores_badly(name):
    rng = np.random.default_rng(0)
    for photo in ("chelsea", "china"):
        crops = np.stack([random_crop(photograph(photo), "3x2", 128, rng, WHOLE) for _ in range(4)])
        edited = np.stack([PLAIN[name].apply(crop) for crop in crops])
        assert psnr(crops, edited).mean() < 18  # the ball is a fifth of such a picture
