import io
import json
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
