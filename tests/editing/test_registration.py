"""Pictures here are sums of waves, so that a shifted one is known in closed form, not resampled."""

import numpy as np
import pytest
from PIL import Image

from step1x_jax.editing.registration import LONGEST, Registration, corrected, register

UNCHANGED = (1.0, 1.0, 1.0)


def waves(width, height, dx=0.0, dy=0.0, gain=UNCHANGED, offset=(0, 0, 0), seed=0):
    """(H, W, 3) levels, 30 waves per channel of 8 to 200 pixels; moved by (dx, dy). Unclipped."""
    random = np.random.default_rng(seed)
    y, x = np.arange(height)[:, None] - dy, np.arange(width) - dx
    channels = []
    for _ in range(3):
        length, angle = np.exp(random.uniform(np.log(8), np.log(200), 30)), random.uniform(0, 7, 30)
        kx, ky = 2 * np.pi * np.cos(angle) / length, 2 * np.pi * np.sin(angle) / length
        phase = random.uniform(0, 7, 30)
        # cos(kx x + ky y + phase), as the real part of a product of a column and a row
        channels.append(
            127.5 + 6 * (np.exp(1j * (y * ky + phase)) @ np.exp(1j * kx[:, None] * x)).real
        )
    return np.stack(channels, -1) * gain + offset


def picture(levels):
    return Image.fromarray(np.rint(np.clip(levels, 0, 255)).astype(np.uint8))


SOURCE = picture(waves(300, 200))
SHIFTS = [(0, 0), (3, -2), (-11, 7), (0.5, 0.5), (0.3, -0.75), (-5.45, 2.6), (0, 0.05)]


def patched(levels, seed=1):
    """With a third of the picture edited: another texture, brighter on the whole."""
    edited = levels.copy()
    edited[40:160, 100:267] = 40 + waves(167, 120, seed=seed)
    return edited


# Rounding to 8 bits alone leaves 0.002 pixels; photographs (12 of the quickstart's, shifted by
# Fourier) were measured to 0.009, with a quarter edited to 0.017.
@pytest.mark.parametrize(("dx", "dy"), SHIFTS)
def test_shifts_are_found_to_a_hundredth_of_a_pixel(dx, dy):
    found = register(SOURCE, picture(waves(300, 200, dx, dy)))
    assert found.measured
    assert abs(found.dx - dx) < 0.01
    assert abs(found.dy - dy) < 0.01
    assert found.error < 0.01
    assert found.share > 0.95


@pytest.mark.parametrize(("dx", "dy"), SHIFTS)
def test_shifts_are_found_beside_an_edit(dx, dy):
    found = register(SOURCE, picture(patched(waves(300, 200, dx, dy))))
    assert found.measured
    assert abs(found.dx - dx) < 0.03
    assert abs(found.dy - dy) < 0.03
    assert 0.5 < found.share < 0.9
    assert np.abs(found.colour).max() < 0.5


def test_shifts_are_measured_in_pixels_of_the_picture():
    size = 1500, 900
    assert max(size) > 2 * LONGEST
    found = register(picture(waves(*size)), picture(waves(*size, 4.3, -1.2)))
    # A hundredth of the pixels at which is measured, which are three of the picture's.
    assert abs(found.dx - 4.3) < 0.03
    assert abs(found.dy + 1.2) < 0.03


def test_the_mask_is_left_out():
    """Two thirds move, one third does not: who is right says the mask alone."""
    edited = waves(300, 200)
    edited[:, :200] = waves(300, 200, 4, 1)[:, :200]
    mask = np.zeros((200, 300), bool)
    mask[:, :200] = True
    # Some of the third fits by chance; not so with the mask.
    for given, expected, tolerance in (
        (None, (4, 1), 0.1), (mask, (0, 0), 0.01), (~mask, (4, 1), 0.01)
    ):  # fmt: skip
        found = register(SOURCE, picture(edited), given)
        assert found.measured
        np.testing.assert_allclose((found.dx, found.dy), expected, atol=tolerance)


@pytest.mark.parametrize("edit", [lambda levels: levels, patched])
def test_drifts_of_colours_are_found(edit):
    gain, offset = (0.92, 1.0, 1.07), (6.0, -3.0, -12.0)
    found = register(SOURCE, picture(edit(waves(300, 200, 1.5, 0.25, gain, offset))))
    assert found.measured
    np.testing.assert_allclose((found.dx, found.dy), (1.5, 0.25), atol=0.03)
    np.testing.assert_allclose(found.gain, gain, atol=0.01)
    expected = 127.5 * (np.array(gain) - 1) + offset
    np.testing.assert_allclose(found.colour, expected, atol=0.3)


def flat(width, height):
    return np.full((height, width, 3), 90.0)


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (200, 300, 3))


def mostly_replaced():
    levels = np.where(waves(300, 200, seed=9) > 127, 255.0, 0.0)
    levels[:65, :90] = waves(300, 200)[:65, :90]
    return levels


STRIPES = np.repeat(waves(300, 1), 200, axis=0)


@pytest.mark.parametrize(
    ("source", "edited"),
    [
        pytest.param(flat(300, 200), flat(300, 200), id="flat"),
        pytest.param(flat(300, 200), flat(300, 200) + 5, id="flat, brighter"),
        pytest.param(flat(300, 200) * 0, flat(300, 200) * 0, id="black"),
        pytest.param(STRIPES, STRIPES, id="texture in one direction only"),
        pytest.param(waves(31, 300), waves(31, 300), id="very small"),
        pytest.param(waves(8, 8), waves(8, 8), id="smallest"),
        pytest.param(waves(300, 200), 255 - waves(300, 200), id="inverted"),
        pytest.param(waves(300, 200), 1.4 * waves(300, 200) - 51, id="more contrast"),
        pytest.param(waves(300, 200), 0.6 * waves(300, 200) + 51, id="less contrast"),
        pytest.param(waves(300, 200), mostly_replaced(), id="a tenth is left"),
        pytest.param(waves(300, 200), 0.35 * waves(300, 200), id="night"),
        pytest.param(waves(300, 200), waves(300, 200) + 40, id="much brighter"),
        pytest.param(waves(300, 200), waves(300, 200, seed=5), id="another picture"),
        pytest.param(waves(300, 200), flat(300, 200), id="nothing left"),
        pytest.param(noise(0), noise(1), id="noise"),
        pytest.param(waves(300, 200), waves(300, 200, 60, 0), id="moved too far"),
    ],
)
def test_what_cannot_be_measured_is_not(source, edited):
    found = register(picture(source), picture(edited))
    assert found == Registration()
    assert str(found) == "not measured"
    image = picture(edited)
    assert corrected(image, found) is image


def test_nothing_outside_of_the_mask_is_not_measured():
    for rows in (200, 197):  # all; all that smoothing does not reach
        mask = np.zeros((200, 300), bool)
        mask[:rows] = True
        assert not register(SOURCE, SOURCE, mask).measured


@pytest.mark.parametrize(("dx", "dy"), [(3.0, -2.0), (0.3, -0.75)])
def test_corrected_pictures_lie_where_the_source_lies(dx, dy):
    gain, offset = (0.95, 1.0, 1.05), (4.0, -3.0, -9.0)
    edited = picture(waves(300, 200, dx, dy, gain, offset))
    back = corrected(edited, register(SOURCE, edited))
    assert back.size == SOURCE.size
    inner = (slice(8, -8), slice(8, -8))
    difference = np.asarray(back, float)[inner] - np.asarray(SOURCE, float)[inner]
    # One level each from rounding the edit and the result, one from gain and offset as found.
    assert np.abs(difference).max() <= 3
    assert np.abs(difference.mean()) < 0.1


def test_moving_by_whole_pixels_alone_is_exact():
    edited = np.asarray(picture(waves(300, 200)))
    back = corrected(Image.fromarray(edited), Registration(measured=True, dx=3, dy=-2))
    np.testing.assert_array_equal(np.asarray(back)[2:, :-3], edited[:-2, 3:])
    np.testing.assert_array_equal(np.asarray(back)[2:, -3:], np.repeat(edited[:-2, -1:], 3, 1))


def test_what_nobody_sees_is_not_corrected():
    image = picture(waves(64, 64))
    small = Registration(measured=True, dx=0.05, dy=-0.05, gain=(1.001, 1.0, 1.0))
    assert corrected(image, small) is image
    brighter = Registration(measured=True, dx=0.05, offset=(0.0, 2.0, 0.0))
    difference = np.asarray(image, int) - np.asarray(corrected(image, brighter), int)
    inside = np.asarray(image).min(-1) > 2
    assert (difference[inside] == (0, 2, 0)).all()  # not moved: or else it would be blurred


def test_registration_in_words():
    found = Registration(True, 1.25, -0.5, (1.0, 1.1, 1.0), (2.0, 0.0, -3.0), 0.8, 0.01)
    assert str(found) == "moved by (+1.25, -0.50) px, grey by (+2.0, +12.8, -3.0)"


def test_pictures_of_two_sizes_are_a_bug():
    with pytest.raises(ValueError, match="differ in size"):
        register(SOURCE, SOURCE.resize((300, 201)))
    with pytest.raises(ValueError, match="differ in size"):
        register(SOURCE, SOURCE, np.zeros((300, 200), bool))
