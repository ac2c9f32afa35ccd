import subprocess
import sys

import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.quickstart import photographs


def test_no_training_photograph_is_held_out():
    training = {p.path for p in photographs.TRAINING} | {p.name for p in photographs.TRAINING}
    held_out = {p.path for p in photographs.HELD_OUT} | {p.name for p in photographs.HELD_OUT}
    assert not training & held_out
    assert {p.name for p in photographs.HELD_OUT} == {"chelsea", "china"}


def test_missing_package_is_a_user_error():
    missing = photographs.Photograph("cat", "no_such_package_anywhere", "cat.png", 1.0)
    with pytest.raises(UserError, match=r"pip install .*\[quickstart\]"):
        photographs.load(missing)


def test_missing_file_is_a_user_error():
    with pytest.raises(UserError, match="lost ships with the package numpy"):
        photographs.load(photographs.Photograph("lost", "numpy", "no/such/file.png", 1.0))


@pytest.mark.quickstart
@pytest.mark.parametrize("photograph", photographs.TRAINING + photographs.HELD_OUT, ids=str)
def test_photographs_are_in_colour(photograph):
    image = photographs.load(photograph)
    assert image.mode == "RGB"
    assert min(image.size) >= 256
    assert np.asarray(image).std(axis=-1).max() > 20  # somewhere the channels differ


@pytest.mark.quickstart
def test_loading_imports_no_package():
    code = (
        "import sys; from step1x_jax.quickstart import photographs as p;"
        "[p.load(x) for x in p.TRAINING + p.HELD_OUT];"
        "print([m for m in ('skimage', 'sklearn', 'matplotlib', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.quickstart
def test_random_crops_are_a_function_of_the_generator():
    first, again, other = (
        photographs.random_crop(np.random.default_rng(seed), 48) for seed in (3, 3, 4)
    )
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.quickstart
def test_held_out_crops_lie_in_their_photograph():
    crops = photographs.held_out_crops(64)
    assert {name: crop.shape for name, crop in crops.items()} == {
        "chelsea": (4, 64, 64, 3),
        "china": (4, 64, 64, 3),
    }
    # The first is the left square of full height: reduced by plain averaging of the same pixels it
    # is the same picture, but for the filter (a few grey levels on average).
    chelsea = np.asarray(photographs.load(photographs.HELD_OUT[0]), np.float64)
    side = chelsea.shape[0] // 4 * 4
    coarse = chelsea[:side, :side].reshape(4, side // 4, 4, side // 4, 3).mean(axis=(1, 3))
    ours = crops["chelsea"][0].astype(np.float64).reshape(4, 16, 4, 16, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(ours, coarse, atol=3)
