import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.images import from_array, image_size, open_image, to_array
from step1x_jax.errors import UserError

RESIZE = Path(__file__).parents[1] / "vectors" / "resize.json"


def test_image_size_equals_the_published_table():
    for row in json.loads(RESIZE.read_text()):
        size = image_size(row["width"], row["height"], row["size_level"])
        assert list(size) == row["resized"], row


@pytest.mark.parametrize("shape", [(10_000, 8), (8, 10_000), (300, 1)])
def test_image_size_refuses_threads(shape):
    with pytest.raises(UserError, match="too long and thin"):
        image_size(*shape, 512)


def test_arrays_and_pictures_are_inverse():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    array = to_array(Image.fromarray(pixels))
    assert array.dtype == np.float32
    assert array.shape == (8, 9, 3)
    assert array.min() >= -1
    assert array.max() <= 1
    np.testing.assert_array_equal(np.asarray(from_array(array)), pixels)
    assert np.asarray(from_array(array * 10)).max() == 255  # clipped, not wrapped


def test_open_image_turns_by_exif_and_drops_alpha(tmp_path):
    image = Image.new("RGBA", (20, 10), (255, 0, 0, 128))
    exif = Image.Exif()
    exif[0x0112] = 6  # quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    assert opened.size == (10, 20)
    assert opened.mode == "RGB"


def _jpeg(size) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def _png16() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "cannot be read"),
        (b"", "not a readable picture"),
        (b"no picture", "not a readable picture"),
        (_jpeg((64, 64))[:500], "not a readable picture"),
        (_jpeg((1, 1)), "1x1 pixels"),
        (_jpeg((100, 7)), "7x100 pixels"),
        (_png16(), "8 bits"),
    ],
)
def test_bad_pictures_are_named(tmp_path, data, reason):
    path = tmp_path / "bad.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=reason) as error:
        open_image(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"%PDF-1.7", "a PDF document"),
        (b"make it night\n", "a text file"),
        ("make it night 夜".encode(), "a text file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><svg xmlns="...">', "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\0\0\0\x20ftypisom", "a video"),
        (b"\xff\x0a....", "a JPEG XL picture"),
        (b"", "an empty file"),
        (bytes(range(200, 256)), "not a picture in a format that is read"),
    ],
)
def test_what_is_no_picture_is_named_in_words(tmp_path, data, what):
    (tmp_path / "photo.png").write_bytes(data)
    with pytest.raises(UserError, match=what) as error:
        open_image(tmp_path / "photo.png")
    assert "BytesIO" not in str(error.value)
    assert "photo.png" in str(error.value)


def test_no_program_is_started_for_postscript(tmp_path, monkeypatch):
    Image.new("RGB", (20, 20)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr("subprocess.check_call", None)
    with pytest.raises(UserError, match="PostScript"):
        open_image(tmp_path / "x.png")


def test_only_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name, reason in (
        ("pipe.png", "a pipe or a device"),
        ("zero.png", "a pipe or a device"),
        ("folder.png", "is a folder"),
    ):
        with pytest.raises(UserError, match=reason):
            open_image(tmp_path / name)
    for address in ("http://127.0.0.1:9/x.png", "https://x/y.png", "file:///dev/zero", "ftp://x/y"):
        with pytest.raises(UserError, match="is an address"):
            open_image(address)
    for impossible in ("a\0b.png", "\ud800.png", "x" * 5000):
        with pytest.raises(UserError, match="cannot be read"):
            open_image(impossible)


def test_a_picture_may_be_a_link(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert open_image(tmp_path / "b.png").getpixel((0, 0)) == (255, 0, 0)


def test_huge_files_are_not_read_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("step1x_jax.conditioning.images.MOST_BYTES", 1 << 20)
    with (tmp_path / "big.png").open("wb") as f:
        f.truncate((1 << 20) + 1)
    with pytest.raises(UserError, match="more than 1 MiB, too much for a picture"):
        open_image(tmp_path / "big.png")


def test_of_an_animation_the_first_frame_is_taken_with_a_word(tmp_path, caplog):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "moving.gif").getpixel((3, 3)) == (255, 0, 0)
    assert "the first one is taken" in caplog.text


def test_the_thumbnail_of_a_raw_file_is_not_taken_for_the_picture(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.tiff", tiffinfo={0xC612: b"\1\4\0\0"})
    with pytest.raises(UserError, match="raw file"):
        open_image(tmp_path / "x.tiff")
