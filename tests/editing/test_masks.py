import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from step1x_jax.editing.masks import (
    CERTAIN,
    DILATION,
    LOWEST,
    MOST,
    SMOOTHING,
    STRIP,
    changed_region,
    composite,
    cover,
    fade,
    feather_width,
    latent_mask,
    read_mask,
)
from step1x_jax.errors import UserError

SIZE = 12, 10  # width, height
MASK = np.zeros((10, 12), bool)
MASK[2:5, 3:9] = True
GREY = np.where(MASK, 255, 0).astype(np.uint8)


def random_masks(seed, count, low=1, high=70):
    """Masks of odd and even sizes, from single pixels to everything: boxes, pixels, or both."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        height, width = random.integers(low, high, 2)
        mask = random.random((height, width)) < random.choice([0, 0.002, 0.1])
        if random.random() < 0.7:
            y, x = random.integers(0, height), random.integers(0, width)
            mask[y : y + random.integers(1, 20), x : x + random.integers(1, 20)] = True
        yield mask


def pixels(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# Reading


def layer(colour, background=(0, 0, 0)):
    """RGBA: the mask painted in a colour on a transparent layer."""
    rgba = np.zeros((10, 12, 4), np.uint8)
    rgba[..., :3] = background
    rgba[MASK] = (*colour, 255)
    return Image.fromarray(rgba)


def palette(transparent=None):
    image = Image.new("P", SIZE)
    image.putpalette([0, 0, 0, 250, 250, 250])
    image.putdata(MASK.ravel().astype(int).tolist())
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


FORMS = {
    "1": Image.fromarray(MASK),
    "L": Image.fromarray(GREY),
    "L, scaled down elsewhere": Image.fromarray(np.where(MASK, 128, 127).astype(np.uint8)),
    "RGB": Image.fromarray(GREY).convert("RGB"),
    "P": palette(),
    "P on transparent": palette(transparent=0),
    "CMYK": Image.fromarray(GREY).convert("CMYK"),
    "opaque LA": Image.fromarray(GREY).convert("LA"),
    "opaque RGBA": Image.fromarray(GREY).convert("RGBA"),
    "white layer": layer((255, 255, 255)),
    "black layer": layer((0, 0, 0)),
    "red layer": layer((200, 0, 0)),
    "black layer on transparent white": layer((0, 0, 0), background=(255, 255, 255)),
    "LA layer": layer((0, 0, 0)).convert("LA"),
    "bool": MASK,
    "bool, one channel": MASK[..., None],
    "uint8": GREY,
    "float32": MASK.astype(np.float32),
    "float64": np.where(MASK, 0.51, 0.5),
    "float16": MASK.astype(np.float16)[..., None],
}


@pytest.mark.parametrize("mask", FORMS.values(), ids=FORMS)
def test_white_or_painted_is_edited(mask):
    found = read_mask(mask, SIZE, "the mask")
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)


def test_half_transparent_paint_counts_from_half():
    rgba = np.zeros((10, 12, 4), np.uint8)
    rgba[..., 3] = np.where(MASK, 128, 127)
    np.testing.assert_array_equal(read_mask(Image.fromarray(rgba), SIZE, "m"), MASK)


def test_the_callers_array_stays_the_callers():
    mask = MASK.copy()
    read_mask(mask, SIZE, "the mask")[:] = False
    np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize("name", ["m.png", "m.webp", "m.tiff", "m.bmp"])
@pytest.mark.parametrize(
    "kind", [str, lambda path: path, lambda path: path.read_bytes()], ids=["str", "Path", "bytes"]
)
def test_masks_from_files(tmp_path, name, kind):
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(GREY).convert("RGB").save(tmp_path / name, **options)
    np.testing.assert_array_equal(read_mask(kind(tmp_path / name), SIZE, "the mask"), MASK)


def test_masks_are_turned_as_pictures_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    stored = Image.fromarray(np.rot90(GREY))
    stored.save(tmp_path / "m.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", SIZE, "the mask"), MASK)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "m.png")
    for mask, name in ((MASK, "mask 3"), (Image.fromarray(MASK), "mask 3"),
                       (tmp_path / "m.png", "m.png")):  # fmt: skip
        with pytest.raises(UserError, match=rf"{name} is 12x10 pixels, its picture 10x12"):
            read_mask(mask, (10, 12), "mask 3")


two_ways = layer((255, 255, 255))
two_ways.putpixel((0, 0), (0, 0, 0, 255))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (~MASK & MASK, "nothing in it"),
        (GREY * 0 + 127, "nothing in it"),
        (Image.new("L", SIZE), "nothing in it"),
        (Image.new("RGBA", SIZE), "nothing in it"),
        (MASK.astype(np.uint8), "0 and 1"),
        (MASK.astype(np.int64), "int64"),
        (GREY.astype(np.uint16), "uint16"),
        (MASK.astype(np.complex64), "complex64"),
        (MASK.astype(object), "object"),
        (GREY.astype(np.float32), "outside of 0 to 1"),
        (np.where(MASK, np.nan, 0.0), "outside of 0 to 1"),
        (np.where(MASK, 1.0, -0.1), "outside of 0 to 1"),
        (np.stack([GREY] * 3, -1), r"shape \(10, 12, 3\)"),
        (MASK[None, :, :, None], "shape"),
        (MASK[0], "shape"),
        (MASK[..., None][:0], "0 pixels|12x0"),
        (two_ways, "black, white and transparent"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "8 bits"),
        (MASK.tolist(), "is a list"),
        (None, "is a NoneType"),
        (b"\x89PNG", "not a readable picture"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(UserError, match=message) as e:
        read_mask(mask, SIZE, "the mask")
    assert str(e.value).startswith("the mask ")


def test_files_that_are_no_masks_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:60])
    for name, message in (
        ("text.png", "not a readable picture"), ("cut.png", "not a readable picture"),
        ("missing.png", "cannot be read"), ("", "it is a folder"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_mask(tmp_path / name, SIZE, "the mask")


# Of other sizes


def test_cover_is_the_union_of_what_a_pixel_overlaps():
    """Against a loop over exact fractions of areas."""
    random = np.random.default_rng(0)
    for mask in random_masks(1, 60, high=24):
        height, width = mask.shape
        h, w = random.integers(1, 40, 2)
        expected = np.zeros((h, w), bool)
        for y, x in np.argwhere(mask):
            for j in range(h):
                for i in range(w):
                    # [y, y + 1) * h and [j, j + 1) * height overlap, in whole numbers
                    rows = max(y * h, j * height) < min((y + 1) * h, (j + 1) * height)
                    columns = max(x * w, i * width) < min((x + 1) * w, (i + 1) * width)
                    expected[j, i] |= rows and columns
        np.testing.assert_array_equal(cover(mask, w, h), expected)
    np.testing.assert_array_equal(cover(MASK, *SIZE), MASK)


def test_no_edited_pixel_is_lost_in_latents():
    """Each pixel's cell is edited, and each edited cell has a pixel: on 500 masks of any size."""
    random = np.random.default_rng(2)
    for mask in random_masks(3, 500, low=8, high=150):
        cell = int(random.choice([2, 8, 16]))
        w, h = (int(n) for n in random.integers(1, 20, 2))
        latents = latent_mask(mask, w * cell, h * cell, cell)
        assert latents.shape == (h, w)
        assert latents.dtype == bool
        ys, xs = np.nonzero(mask)
        height, width = mask.shape
        for corner in (0, 0.999):  # both ends of each pixel
            rows = ((ys + corner) * h / height).astype(int)
            columns = ((xs + corner) * w / width).astype(int)
            assert latents[rows, columns].all()
        assert latents.any() == mask.any()
        assert latents.sum() <= len(ys) * (2 + h // height) * (2 + w // width)


def test_latents_of_a_mask_at_the_edited_size():
    mask = np.zeros((32, 48), bool)
    mask[8:16, 16:24] = True  # exactly one cell
    mask[31, 47] = True  # one pixel of the last
    expected = np.zeros((4, 6), bool)
    expected[1, 2] = expected[3, 5] = True
    np.testing.assert_array_equal(latent_mask(mask, 48, 32, 8), expected)
    with pytest.raises(ValueError, match="no whole cells"):
        latent_mask(mask, 48, 36, 8)


# Compositing


@pytest.mark.parametrize("feather", [None, 0, 1, 2, 7, 200])
def test_far_from_the_mask_the_source_is_kept_bit_for_bit(feather):
    """Against distances from all pixels to all others, on random masks and pictures."""
    for seed, mask in enumerate(random_masks(4, 40, low=4, high=40)):
        height, width = mask.shape
        source, edited = pixels(height, width, seed), pixels(height, width, seed + 1000)
        result = np.asarray(
            composite(Image.fromarray(source), Image.fromarray(edited), mask, feather)
        )
        reach = feather_width(width, height) if feather is None else feather
        distance = np.full((height, width), np.inf)
        for y, x in np.argwhere(mask):
            distance = np.minimum(
                distance, np.hypot(np.arange(height)[:, None] - y, np.arange(width) - x)
            )
        np.testing.assert_array_equal(result[mask], edited[mask])
        far = ~mask & (distance >= reach)
        np.testing.assert_array_equal(result[far], source[far])
        # In between a mean of both, rounded.
        low, high = np.minimum(source, edited), np.maximum(source, edited)
        assert (result >= low).all()
        assert (result <= high).all()


def test_the_edge_falls_smoothly_with_the_distance():
    mask = np.zeros((1, 200), bool)
    mask[0, :50] = True
    for feather in (1, 2, 5, 16, 100):
        weights = fade(mask, feather)[0].astype(int)
        x = np.clip(1 - (np.arange(200) - 49) / feather, 0, 1)
        # The smooth step as the integral of its slope, 6 x (1 - x); rounded to whole 255ths.
        grid = np.linspace(0, 1, 10_001)
        slope = 6 * grid * (1 - grid)
        step = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2) / 10_000])
        np.testing.assert_allclose(weights, 255 * np.interp(x, grid, step), atol=0.51)
        assert (np.diff(weights) <= 0).all()
        assert -np.diff(weights).min() <= 1.5 * 255 / feather + 1  # nowhere steeper than its middle
        if feather <= 16:  # wider, neighbours round to the same weight near the ends
            assert (np.diff(weights[49 : 49 + feather]) < 0).all()


def test_the_edge_is_the_same_in_all_directions():
    mask = np.zeros((101, 101), bool)
    mask[50, 50] = True
    weights = fade(mask, 40)
    for turned in (weights[::-1], weights[:, ::-1], weights.T):
        np.testing.assert_array_equal(weights, turned)
    assert weights[50 + 24, 50 + 32] == 0  # at 40, by Pythagoras
    assert weights[50 + 18, 50 + 24] == weights[50, 80] > 0  # both at 30


def test_tall_pictures_are_composited_as_in_one_piece():
    """Rows are worked on in strips: nothing is to be seen of them."""
    random = np.random.default_rng(5)
    mask = random.random((3 * STRIP + 7, 9)) < 0.001
    mask[STRIP - 1, 4] = mask[2 * STRIP, 0] = True  # at either side of a border
    distance = ndimage.distance_transform_edt(~mask)
    for feather in (3, 40, 2 * STRIP):
        weights = fade(mask, feather)
        np.testing.assert_array_equal(weights > 0, _weight(distance, feather) >= 0.5 / 255)
        np.testing.assert_allclose(weights, 255 * _weight(distance, feather), atol=0.51)


def _weight(distance, feather):
    x = np.clip(1 - distance / feather, 0, 1)
    return 3 * x**2 - 2 * x**3


def test_the_width_of_the_edge_grows_with_the_picture():
    assert feather_width(1024, 1024) == 32
    assert feather_width(512, 2048) == 32
    assert feather_width(4096, 4096) == 128
    assert feather_width(8, 8) == 0  # a hard edge
    image = Image.fromarray(pixels(256, 256, 0))
    mask = np.zeros((256, 256), bool)
    mask[:, :100] = True
    other = Image.fromarray(pixels(256, 256, 1))
    assert composite(image, other, mask) == composite(image, other, mask, 8)
    assert composite(image, other, mask) != composite(image, other, mask, 7)


def test_nothing_and_everything():
    source, edited = (Image.fromarray(pixels(20, 30, seed)) for seed in (0, 1))
    assert composite(source, edited, np.zeros((20, 30), bool)) == source
    assert composite(source, edited, np.ones((20, 30), bool)) == edited


def test_what_cannot_be_composited():
    source = Image.new("RGB", (30, 20))
    for edited, mask in (
        (source, np.ones((30, 20), bool)),
        (source.resize((30, 21)), np.ones((20, 30), bool)),
        (source.convert("L"), np.ones((20, 30), bool)),
    ):
        with pytest.raises(ValueError, match="belong together"):
            composite(source, edited, mask)
    with pytest.raises(UserError, match="feather is -1"):
        composite(source, source, np.ones((20, 30), bool), -1)


# Finding what has changed


def photograph(height=128, width=160, seed=0):
    """Smooth colours with some texture: (H, W, 3) levels, 30 to 220."""
    random = np.random.default_rng(seed)
    shapes = sum(
        a * ndimage.gaussian_filter(random.standard_normal((height, width, 3)), (s, s, 0)) * s
        for a, s in ((150, 20), (60, 5), (20, 1))
    )
    return np.clip(125 + shapes, 30, 220)


def copied(levels, noise, seed=7):
    """As an autoencoder gives it back: fine texture lost, other fine texture instead."""
    random = np.random.default_rng(seed)
    blurred = ndimage.gaussian_filter(levels, (0.7, 0.7, 0))
    return blurred + noise * random.standard_normal(levels.shape)


def image(levels):
    return Image.fromarray(np.rint(np.clip(levels, 0, 255)).astype(np.uint8))


SOURCE = photograph()
BALL = np.hypot(np.arange(128)[:, None] - 60, np.arange(160) - 90) < 25


@pytest.mark.parametrize("noise", [0, 4, 12])
def test_the_copy_of_a_picture_has_not_changed(noise):
    assert not changed_region(image(SOURCE), image(copied(SOURCE, noise))).any()


@pytest.mark.parametrize("noise", [0, 4, 12])
def test_an_edit_is_found_whole_and_little_else(noise):
    edited = copied(SOURCE, noise)
    edited[BALL] = (230, 20, 30)
    found = changed_region(image(SOURCE), image(edited))
    assert found[BALL].all()
    distance = ndimage.distance_transform_edt(~BALL)
    assert found[distance <= DILATION / 2].all()
    assert not found[distance > DILATION + 3 * SMOOTHING].any()


def test_faint_edits_are_found_where_the_copy_is_good():
    """The threshold follows the noise: 26 levels are an edit here, and none in a bad copy."""
    for noise, expected in ((2, True), (45, False)):
        edited = copied(SOURCE, noise)
        edited[BALL] += 26
        found = changed_region(image(SOURCE), image(edited))
        assert found[BALL].any() == expected
        assert not found[:, :40].any()


def test_the_threshold_is_where_it_is_said_to_be():
    levels = np.full((64, 64, 3), 100.0)
    for step, expected in ((LOWEST * CERTAIN - 1, False), (LOWEST * CERTAIN + 1, True)):
        edited = levels.copy()
        edited[16:48, 16:48, 1] -= step  # in one channel
        assert changed_region(image(levels), image(edited)).any() == expected


def test_specks_are_dropped_and_small_things_are_not():
    for side, expected in ((3, False), (12, True)):
        edited = SOURCE.copy()
        edited[60 : 60 + side, 40 : 40 + side] = (255, 255, 255)
        found = changed_region(image(SOURCE), image(edited))
        assert found.any() == expected
        edited[BALL] = (230, 20, 30)
        assert changed_region(image(SOURCE), image(edited))[62, 42] == expected


def test_where_nearly_everything_has_changed_it_is_everything():
    source = SOURCE.copy()
    source[:60, :60] = 127  # a sixth is mid-grey, which stays mid-grey in a negative
    assert changed_region(image(source), image(255 - source)).all()
    half = SOURCE.copy()
    half[:, 80:] = 255 - half[:, 80:]
    share = changed_region(image(SOURCE), image(half)).mean()
    assert 0.4 < share < MOST


def test_pictures_of_two_sizes_are_a_bug():
    with pytest.raises(ValueError, match="differ in size"):
        changed_region(Image.new("RGB", (16, 16)), Image.new("RGB", (16, 24)))
