"""Pictures of all kinds as a viewer shows them. Right values are numpy's, or written out."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from step1x_jax.conditioning import colours
from step1x_jax.conditioning.colours import to_srgb
from step1x_jax.conditioning.images import decode_image, open_image
from step1x_jax.errors import UserError


def scene(width=48, height=32) -> np.ndarray:
    """A red, a green and a blue field, different in each corner."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[: height // 2, : width // 2, 0] = 220
    pixels[: height // 2, width // 2 :, 1] = 200
    pixels[height // 2 :, :, 2] = 210
    return pixels


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def both_ways(image: Image.Image, format: str, **options) -> np.ndarray:
    """As the command decodes the file, which has to be as the notebook's picture is taken."""
    data = encoded(image, format, **options)
    command = np.asarray(decode_image(data, "file"))
    np.testing.assert_array_equal(np.asarray(to_srgb(Image.open(io.BytesIO(data)), "own")), command)
    return command


def display_p3() -> bytes:
    """A matrix profile with Display P3's primaries (D50) and a gamma of 2.2, byte by byte."""

    def number(x):
        return struct.pack(">i", round(x * 65536))

    def xyz(*values):
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    name = b"P3 by hand\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 79,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I", 128 + len(table) + len(body)) + b"\0\0\0\0"
    head += (
        struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + struct.pack(">6H", 2025, 1, 1, 0, 0, 0)
    )
    head += b"acsp" + b"\0" * 28 + number(0.9642) + number(1.0) + number(0.8249)
    return head.ljust(128, b"\0") + table + body


def p3_as_srgb(pixels: np.ndarray) -> np.ndarray:
    """The same by arithmetic: 2.2, P3's matrix to XYZ (D50), back by sRGB's, sRGB's curve."""
    p3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657],
                   [-0.00105, 0.04189, 0.78407]])  # fmt: skip
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061],
                     [0.01392, 0.09708, 0.71410]])  # fmt: skip
    linear = (pixels / 255) ** 2.2 @ (np.linalg.inv(srgb) @ p3).T
    linear = linear.clip(0, 1)
    curved = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.rint(curved * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright_for_command_and_notebook(orientation):
    """EXIF: 1 as stored, 2 mirrored, 3 half turn, ..., 8; what undoes each is written out."""
    upright = scene()
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = both_ways(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(got, upright)


def test_the_result_has_nothing_of_the_files_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(scene()), "PNG", exif=exif, icc_profile=display_p3())
    image = decode_image(data, "x")
    assert (image.mode, image.info) == ("RGB", {})
    assert not image.getexif()


def test_a_profile_is_applied_as_the_arithmetic_says():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    got = both_ways(Image.fromarray(pixels), "PNG", icc_profile=display_p3())
    want = p3_as_srgb(pixels)
    # lcms computes with 16-bit fixed point in the dark end of the curve: two levels
    assert np.abs(got - want).max() <= 2
    assert np.abs(pixels - want).max() > 20  # the numbers alone are far off


def test_a_profile_reaches_palettes_and_transparent_pictures():
    icc = display_p3()
    opaque = Image.fromarray(scene())
    want = p3_as_srgb(scene())
    for image in (opaque.convert("RGBA"), opaque.quantize(8)):
        got = both_ways(image, "PNG", icc_profile=icc)
        assert np.abs(got - want).max() <= 2


def test_srgb_pictures_keep_their_numbers():
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(
        both_ways(Image.fromarray(pixels), "PNG", icc_profile=srgb), pixels
    )


@pytest.mark.parametrize("profile", [b"rubbish", display_p3()[:300], display_p3()[:140]])
def test_a_broken_profile_is_no_reason_to_refuse_a_picture(profile, caplog):
    image = Image.fromarray(scene())
    image.info["icc_profile"] = profile
    np.testing.assert_array_equal(np.asarray(to_srgb(image, "x.png")), scene())
    assert "x.png: its colour profile cannot be used" in caplog.text


def test_a_profile_of_another_kind_of_picture_is_not_applied(caplog):
    image = Image.fromarray(scene()).convert("CMYK")
    want = np.asarray(image.convert("RGB"))
    image.info["icc_profile"] = display_p3()
    np.testing.assert_array_equal(np.asarray(to_srgb(image, "x")), want)
    assert "cannot be used" in caplog.text


def test_transparent_pixels_are_white_and_half_transparent_ones_half():
    rgba = np.dstack([scene(), np.full((32, 48), 255, np.uint8)])
    rgba[:8, :, :3], rgba[:8, :, 3] = (255, 0, 255), 0  # a hidden magenta
    rgba[8:16, :, 3] = 128
    got = both_ways(Image.fromarray(rgba), "PNG").astype(int)
    weight = rgba[..., 3:] / 255
    want = rgba[..., :3] * weight + 255 * (1 - weight)
    assert np.abs(got - want).max() <= 1  # rounding
    assert (got[:8] == 255).all()


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa"])
def test_other_modes_with_transparency_are_on_white(mode):
    rgba = Image.fromarray(np.dstack([scene(), np.zeros((32, 48), np.uint8)]), "RGBA")
    image = rgba.convert("LA").convert(mode) if mode == "La" else rgba.convert(mode)
    assert (np.asarray(to_srgb(image, "x")) == 255).all()


def test_one_colour_of_a_palette_may_be_transparent():
    image = Image.fromarray(scene()).quantize(4)
    hidden = image.getpixel((0, 0))
    got = both_ways(image, "PNG", transparency=hidden)
    indices = np.asarray(image)
    np.testing.assert_array_equal(got[indices == hidden], 255)
    np.testing.assert_array_equal(
        got[indices != hidden], np.asarray(image.convert("RGB"))[indices != hidden]
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_without_more_are_converted_as_pillow_does(mode):
    image = Image.fromarray(scene()).convert(mode)
    np.testing.assert_array_equal(np.asarray(to_srgb(image, "x")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_more_than_8_bits_are_refused_not_clipped(mode):
    grey = np.asarray(Image.fromarray(scene()).convert("L"))
    kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    with pytest.raises(UserError, match="my picture has more than 8 bits"):
        to_srgb(Image.fromarray(grey.astype(kind)), "my picture")


def test_the_given_picture_is_not_changed():
    image = Image.fromarray(scene())
    image.info["icc_profile"] = display_p3()
    to_srgb(image, "x")
    np.testing.assert_array_equal(np.asarray(image), scene())
    assert "icc_profile" in image.info
    plain = Image.fromarray(scene())
    assert to_srgb(plain, "x") is not plain


def test_sizes_are_checked_before_anything_is_allocated(monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(colours, "MOST_PIXELS", 1000)
    data = encoded(Image.fromarray(scene()), "PNG")
    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(UserError, match=r"48x32 pixels, more than .* scale it down"):
        to_srgb(Image.open(io.BytesIO(data)), "x")


def test_a_bomb_is_refused_with_advice(tmp_path):
    """A PNG whose header says 60,000 x 60,000, and one of 169 million."""
    data = encoded(Image.new("1", (8, 8)), "PNG")
    for width, height in ((60_000, 60_000), (13_000, 13_000)):
        ihdr = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        forged = data[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + data[33:]
        (tmp_path / "bomb.png").write_bytes(forged)
        with pytest.raises(UserError, match=r"bomb\.png .* million.*; scale it down"):
            open_image(tmp_path / "bomb.png")


def test_damaged_exif_data_is_not_turned_but_read(caplog):
    image = Image.fromarray(scene())
    image.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff"
    np.testing.assert_array_equal(np.asarray(to_srgb(image, "x")), scene())


def test_what_starts_a_program_is_refused_even_if_pillow_opened_it(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "x.eps")
    with pytest.raises(UserError, match="picture 0 is an EPS file"):
        to_srgb(Image.open(tmp_path / "x.eps"), "picture 0")


def test_pictures_that_another_plugin_opened_are_taken(tmp_path):
    """As pillow_heif's: whoever opened the file decided to."""
    image = Image.open(io.BytesIO(encoded(Image.fromarray(scene()), "PNG")))
    image.format = "HEIF"
    np.testing.assert_array_equal(np.asarray(to_srgb(image, "x")), scene())
