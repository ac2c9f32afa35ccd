import math

import numpy as np

from step1x_jax.asking.pictures import picture_to_send
from step1x_jax.evaluation.judging.pictures import original, sent_size
from step1x_jax.evaluation.judging.presets import QWEN_2_5_VL_72B
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


def test_a_function_gets_the_file_as_it_is():
    data = png(picture("a"))
    assert original(data).encode() == data
    sent = picture_to_send(data, "a", (30, 50), QWEN_2_5_VL_72B)
    assert original(data).fingerprint != sent.fingerprint
