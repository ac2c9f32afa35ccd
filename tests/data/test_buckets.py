import numpy as np
import pytest
from PIL import Image

from step1x_jax.data.buckets import bucket_sizes, fit, nearest_bucket


@pytest.mark.parametrize("level", [128, 512, 1024])
def test_buckets_have_about_the_same_area_and_suit_the_model(level):
    sizes = bucket_sizes(level)
    assert (level, level) in sizes
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % 16 == height % 16 == 0
        assert (height, width) in sizes
        assert 0.75 * level**2 <= width * height <= 1.05 * level**2  # floored to multiples of 16


def test_a_picture_goes_to_the_nearest_shape():
    sizes = bucket_sizes(512)
    assert nearest_bucket(1000, 1000, sizes) == (512, 512)
    assert nearest_bucket(640, 480, sizes) == (592, 432)
    assert nearest_bucket(480, 640, sizes) == (432, 592)
    assert nearest_bucket(5000, 100, sizes) == max(sizes)


def test_fit_covers_and_cuts_evenly():
    ramp = np.zeros((50, 300, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 300)
    fitted = np.asarray(fit(Image.fromarray(ramp), (32, 32)), np.float32)
    assert fitted.shape == (32, 32, 3)
    row = fitted[16, :, 0]  # the middle sixth of the ramp
    assert abs(row.mean() - 127.5) < 1
    assert abs((row[-1] - row[0]) - 255 / 6) < 4


def test_nearness_is_of_ratios():
    """Half-way between 1 and 2 is 1.414 by ratio, 1.5 by difference."""
    assert nearest_bucket(144, 100, [(100, 100), (200, 100)]) == (200, 100)
    assert nearest_bucket(139, 100, [(100, 100), (200, 100)]) == (100, 100)
