import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from step1x_jax.asking.pictures import picture_size, picture_to_send, shrunk_size
from step1x_jax.asking.preset import LOCAL, ChatPreset
from step1x_jax.errors import UserError
from tests.evaluation.toy import picture, png

PNG = ChatPreset(endpoint=LOCAL, model="toy", max_tokens=10)
JPEG = dataclasses.replace(PNG, picture_format="JPEG")


def test_no_side_is_longer_than_1024():
    assert shrunk_size((640, 480)) == (640, 480)
    assert shrunk_size((2048, 1000)) == (1024, 500)
    assert shrunk_size((1000, 2048)) == (500, 1024)
    assert shrunk_size((5000, 1)) == (1024, 1)


def test_pictures_are_resized_by_pillows_default():
    image = picture("a", (60, 40))
    sent = picture_to_send(png(image), "a", (30, 50), PNG)
    back = Image.open(io.BytesIO(sent.encode()))
    assert (back.format, back.mode, back.size) == ("PNG", "RGB", (30, 50))
    assert np.array_equal(back, image.resize((30, 50), Image.Resampling.BICUBIC))
    assert sent.pixels == 1500


def test_jpeg_of_pillows_default_quality():
    image = picture("a", (64, 48))
    sent = picture_to_send(png(image), "a", (64, 48), JPEG).encode()
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    assert sent == stream.getvalue()


def test_turned_and_transparent_pictures_are_seen_as_they_look():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    stream = io.BytesIO()
    picture("a", (60, 40)).save(stream, "PNG", exif=exif)
    assert picture_size(stream.getvalue(), "a") == (40, 60)
    clear = png(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))
    sent = picture_to_send(clear, "a", (20, 20), PNG)
    assert np.all(np.asarray(Image.open(io.BytesIO(sent.encode()))) == 255)


def test_what_is_no_picture():
    with pytest.raises(UserError, match="the picture of x"):
        picture_size(b"nonsense", "the picture of x")


def test_fingerprints_tell_what_is_sent():
    data, other = png(picture("a")), png(picture("b"))
    sent = [
        picture_to_send(data, "a", (30, 50), PNG),
        picture_to_send(other, "a", (30, 50), PNG),
        picture_to_send(data, "a", (31, 50), PNG),
        picture_to_send(data, "a", (30, 50), JPEG),
        picture_to_send(data, "a", (30, 50), dataclasses.replace(JPEG, jpeg_quality=90)),
    ]
    assert len({one.fingerprint for one in sent}) == len(sent)
    again = picture_to_send(data, "b", (30, 50), PNG)
    assert again.fingerprint == sent[0].fingerprint
