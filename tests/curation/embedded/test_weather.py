import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.embedded import weather

pytestmark = pytest.mark.curation
GREY = np.full((60, 80, 3), 128, np.uint8)


def test_fog_follows_the_law_of_light_in_air():
    """Koschmieder: what is left of the light is exp(-depth), depth in visibilities."""
    disparity = np.full((60, 80), 1.0, np.float32)
    disparity[:, 30:] = 0.5  # twice as far: the median depth
    disparity[0, 0] = np.nan  # unknown: as beside it
    dark = np.zeros((60, 80, 3), np.uint8)
    foggy = weather.fog(dark, disparity, 1.0).astype(float) / 255
    depth = np.array([1.0, 2.0]) / 2
    expected = weather.AIR * (1 - np.exp(-depth))[:, None]
    np.testing.assert_allclose(foggy[30, 10], expected[0], atol=0.003)
    np.testing.assert_allclose(foggy[30, 70], expected[1], atol=0.003)
    np.testing.assert_array_equal(foggy[0, 0], foggy[30, 10])


def test_exposure_is_counted_in_stops():
    """sRGB 128 is 0.2158 of light; 2.5 stops less are 0.0382, sRGB 55; 1.5 more 0.611, 205."""
    np.testing.assert_array_equal(weather.underexposed(GREY), 55)
    np.testing.assert_array_equal(weather.overexposed(GREY), 205)


@pytest.mark.parametrize("fall", [weather.rain, weather.snow])
def test_weather_is_its_generators(fall):
    rng = np.random.default_rng
    one, same, other = (fall(GREY, rng(seed), 0.003) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.max() > 180  # drops and flakes are lighter


def test_seasons_change_leaves_alone():
    leaves, sky = np.full((8, 8, 3), (60, 110, 40), np.uint8), np.full((8, 8, 3), (170, 200, 235))
    autumn = weather.autumn(np.concatenate([leaves, sky.astype(np.uint8)]))
    assert (autumn[:8, :, 0] > autumn[:8, :, 1] + 20).all()  # red or orange
    assert (autumn[8:, :, 2] > autumn[8:, :, 0]).all()  # still blue
    winter = weather.winter(leaves)
    assert np.ptp(winter, axis=-1).max() < 30  # grey
    assert winter.mean() > leaves.mean() + 30  # and lighter
