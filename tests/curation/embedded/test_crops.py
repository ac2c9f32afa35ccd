"""Crops of photographs in the shapes and sizes that the editor gives to pictures."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.embedded.crops import RARE, draw_name, photograph, random_crop
from step1x_jax.curation.embedded.descriptions import read_descriptions

pytestmark = pytest.mark.curation

# Red rises from left to right, green from top to bottom: a crop says where it was cut.
RAMPS = np.zeros((200, 300, 3), np.uint8)
RAMPS[..., 0] = np.arange(300)[None, :] * 255 / 299
RAMPS[..., 1] = np.arange(200)[:, None] * 255 / 199


@pytest.mark.parametrize(
    ("shape", "size"),
    [("1x1", (128, 128)), ("3x2", (144, 96)), ("2x3", (96, 144)), ("4x3", (144, 96))],
)
def test_crops_have_the_shape_and_lie_in_the_picture(shape, size):
    for seed in range(20):
        crop = random_crop(RAMPS, shape, 128, np.random.default_rng(seed), 0.3)
        assert crop.shape == (size[1], size[0], 3)
        red, green = crop[crop.shape[0] // 2, :, 0].astype(float), crop[:, 0, 1].astype(float)
        # the crop's extent in the photograph, from its first and last pixels' colours
        width = abs(red[-1] - red[0]) / 255 * 299
        height = (green[-1] - green[0]) / 255 * 199
        across, down = map(int, shape.split("x"))
        largest = min(300, 200 * across / down), min(200, 300 * down / across)
        assert 0.3 * largest[0] * 0.9 <= width <= largest[0]
        # 8-bit colours and LANCZOS at the borders: a few pixels of 200
        np.testing.assert_allclose(width / height, across / down, rtol=0.12)


def test_a_crop_is_a_function_of_the_generator_and_half_are_mirrored():
    crops = [random_crop(RAMPS, "3x2", 64, np.random.default_rng(i)) for i in range(40)]
    again = random_crop(RAMPS, "3x2", 64, np.random.default_rng(7))
    np.testing.assert_array_equal(again, crops[7])
    mirrored = sum(int(crop[0, 0, 0]) > int(crop[0, -1, 0]) for crop in crops)
    assert 10 <= mirrored <= 30  # of 40 fair coins, within 3 standard deviations


def test_textures_are_drawn_less_often():
    names = list(read_descriptions())
    assert set(RARE) < set(names)
    rng = np.random.default_rng(0)
    drawn = [draw_name(names, rng) for _ in range(4000)]
    ratio = drawn.count("brick") / drawn.count("coffee")
    np.testing.assert_allclose(ratio, RARE["brick"], atol=0.08)  # about 450 and 90 draws


def test_photographs_are_read_once_and_cannot_be_changed():
    pixels = photograph("chelsea")
    assert pixels is photograph("chelsea")
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 0
