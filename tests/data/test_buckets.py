import numpy as np
import pytest
from PIL import Image

from step1x_jax.data.buckets import find_nearest_bucket, list_bucket_sizes, scale_and_crop


@pytest.mark.parametrize("level", [128, 512, 1024])
def test_buckets_have_similar_areas_and_sides_that_suit_the_model(level):
    sizes = list_bucket_sizes(level)
    assert (level, level) in sizes
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % 16 == height % 16 == 0
        assert (height, width) in sizes
        assert 0.75 * level**2 <= width * height <= 1.05 * level**2  # floored to multiples of 16


def test_a_picture_gets_the_nearest_bucket():
    sizes = list_bucket_sizes(512)
    assert find_nearest_bucket(1000, 1000, sizes) == (512, 512)
    assert find_nearest_bucket(640, 480, sizes) == (592, 432)
    assert find_nearest_bucket(480, 640, sizes) == (432, 592)
    assert find_nearest_bucket(5000, 100, sizes) == max(sizes)


def test_scale_and_crop_covers_the_bucket_and_crops_evenly():
    ramp = np.zeros((50, 300, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 300)
    fitted = np.asarray(scale_and_crop(Image.fromarray(ramp), (32, 32)), np.float32)
    assert fitted.shape == (32, 32, 3)
    row = fitted[16, :, 0]  # the middle sixth of the ramp
    assert abs(row.mean() - 127.5) < 1
    assert abs((row[-1] - row[0]) - 255 / 6) < 4


def test_distance_of_buckets_is_logarithmic():
    """The midpoint between 1 and 2 is 1.414 by logarithm, 1.5 by difference."""
    assert find_nearest_bucket(144, 100, [(100, 100), (200, 100)]) == (200, 100)
    assert find_nearest_bucket(139, 100, [(100, 100), (200, 100)]) == (100, 100)
