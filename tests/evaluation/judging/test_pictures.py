import io
import math

import numpy as np
import pytest
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.evaluation.judging.pictures import (
    original,
    picture_size,
    picture_to_send,
    sent_size,
)
from step1x_jax.evaluation.judging.presets import GPT_4_1, QWEN_2_5_VL_72B
from tests.evaluation.toy import picture, png


def published_size(size):
    """As mid-2025's script states it: the sides of 512^2 pixels in this ratio, cut to integers."""
    ratio = size[0] / size[1]
    width = math.sqrt(512 * 512 * ratio)
    return int(width), int(width / ratio)


def test_area512_is_the_published_size():
    rng = np.random.default_rng(0)
    sizes = [(512, 512), (1024, 768), (768, 1024), (1, 1), (8, 1200)]
    sizes += [tuple(map(int, rng.integers(8, 4000, 2))) for _ in range(500)]
    for size in sizes:
        assert sent_size(size, "area512", (7, 7)) == published_size(size)
    assert sent_size((1024, 768), "area512", (7, 7)) == (591, 443)
    assert min(sent_size((1, 600_000), "area512", (7, 7))) == 1


def test_source_size_and_long_side():
    assert sent_size((640, 480), "source_size", (500, 300)) == (500, 300)
    assert sent_size((640, 480), "long1024", (7, 7)) == (640, 480)
    assert sent_size((2048, 1000), "long1024", (7, 7)) == (1024, 500)
    assert sent_size((1000, 2048), "long1024", (7, 7)) == (500, 1024)
    assert sent_size((5000, 1), "long1024", (7, 7)) == (1024, 1)


def test_pictures_are_resized_by_pillows_default():
    image = picture("a", (60, 40))
    sent = picture_to_send(png(image), "a", (30, 50), QWEN_2_5_VL_72B)
    back = Image.open(io.BytesIO(sent.encode()))
    assert (back.format, back.mode, back.size) == ("PNG", "RGB", (30, 50))
    assert np.array_equal(back, image.resize((30, 50), Image.Resampling.BICUBIC))
    assert sent.pixels == 1500


def test_jpeg_of_pillows_default_quality():
    image = picture("a", (64, 48))
    sent = picture_to_send(png(image), "a", (64, 48), GPT_4_1).encode()
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    assert sent == stream.getvalue()


def test_fingerprints_tell_what_is_sent():
    data, other = png(picture("a")), png(picture("b"))
    sent = [
        picture_to_send(data, "a", (30, 50), QWEN_2_5_VL_72B),
        picture_to_send(other, "a", (30, 50), QWEN_2_5_VL_72B),
        picture_to_send(data, "a", (31, 50), QWEN_2_5_VL_72B),
        picture_to_send(data, "a", (30, 50), GPT_4_1),
        original(data),
    ]
    assert len({one.fingerprint for one in sent}) == len(sent)
    again = picture_to_send(data, "b", (30, 50), QWEN_2_5_VL_72B)
    assert again.fingerprint == sent[0].fingerprint
    assert sent[-1].encode() == data


def test_turned_and_transparent_pictures_are_seen_as_they_look():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    stream = io.BytesIO()
    picture("a", (60, 40)).save(stream, "PNG", exif=exif)
    assert picture_size(stream.getvalue(), "a") == (40, 60)
    clear = png(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))
    sent = picture_to_send(clear, "a", (20, 20), QWEN_2_5_VL_72B)
    assert np.all(np.asarray(Image.open(io.BytesIO(sent.encode()))) == 255)


def test_what_is_no_picture():
    with pytest.raises(UserError, match="the picture of x"):
        picture_size(b"nonsense", "the picture of x")
