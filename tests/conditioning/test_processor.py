"""Pictures for Qwen2.5-VL: against transformers' own processor, bit for bit."""

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from step1x_jax.conditioning.processor import FEWEST, MOST, SIDE, Processor, fitting_size
from step1x_jax.errors import UserError
from step1x_jax.models.mllm.config import VisionConfig
from tests.conditioning.small_qwen import make_folder

TOKEN = SIDE**2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("qwen"))


def picture(width, height):
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("limits", [(256 * TOKEN, 324 * TOKEN), (4 * TOKEN, 9 * TOKEN)])
@pytest.mark.parametrize("size", [(1, 1), (13, 200), (56, 84), (333, 181), (500, 700), (1900, 10)])
def test_patches_are_those_of_the_published_processor(folder, limits, size):
    """After the scaling of qwen_vl_utils, which has the same rule as the processor."""
    image = picture(*size)
    height, width = smart_resize(image.height, image.width, SIDE, FEWEST, MOST)
    size = dict(zip(("shortest_edge", "longest_edge"), limits, strict=True))
    processor = Qwen2VLImageProcessorPil(size=size)
    want = processor([image.resize((width, height))], return_tensors="np")
    got = Processor(folder, *limits, VisionConfig())(image)
    assert got.patches.dtype == np.float32
    np.testing.assert_array_equal(got.patches, want["pixel_values"])
    np.testing.assert_array_equal(got.grid, want["image_grid_thw"][0])
    assert got.tokens == len(got.patches) / 4


@pytest.mark.parametrize("limits", [(256 * TOKEN, 324 * TOKEN), (FEWEST, MOST), (FEWEST, FEWEST)])
def test_sizes_are_those_of_the_published_rule(limits):
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(0, 10, (20_000, 2))).astype(int).tolist()
    sizes += [[1, 200], [200, 1], [2, 400], [28, 28], [42, 70], [14, 14]]  # halves are rounded
    taken = [size for size in sizes if max(size) <= 200 * min(size)]
    assert 0 < len(taken) < len(sizes)
    for size in taken:
        assert fitting_size(*size, SIDE, *limits) == smart_resize(*size, SIDE, *limits)


@pytest.mark.parametrize("size", [(201, 1), (2, 401)])
def test_long_and_thin_is_refused(folder, size):
    processor = Processor(folder, 4 * TOKEN, 9 * TOKEN, VisionConfig())
    with pytest.raises(UserError, match="one side is over 200 times the other"):
        processor(picture(*size))
