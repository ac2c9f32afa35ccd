"""Noise of seeds and of files."""

import io
import os
import pickle

import jax
import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.sampling.noise import noise_from_seed, noise_given

SHAPE = (1, 4, 6, 16)


def test_noise_depends_on_the_examples_own_seed():
    both = noise_from_seed(5, (2, 4, 4, 16))
    np.testing.assert_array_equal(both[1:], noise_from_seed(6, (1, 4, 4, 16)))
    assert abs(float(both.std()) - 1) < 0.1  # 512 draws: 3 sigma


def test_noise_from_a_file_is_in_the_published_layout(tmp_path):
    noise = np.random.default_rng(0).normal(size=(1, 16, 4, 6)).astype(np.float16)
    np.save(tmp_path / "noise.npy", noise)
    got = noise_given(tmp_path / "noise.npy", (1, 4, 6, 16))
    np.testing.assert_array_equal(got, noise.transpose(0, 2, 3, 1))
    with pytest.raises(UserError, match=r"has shape \[1, 16, 4, 6\], this edit needs"):
        noise_given(tmp_path / "noise.npy", (1, 6, 4, 16))
    (tmp_path / "text.npy").write_text("noise")
    with pytest.raises(UserError, match=r"no readable \.npy file"):
        noise_given(tmp_path / "text.npy", (1, 4, 6, 16))


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_seeds_of_32_bits_are_jaxs(seed):
    """So what was drawn before is drawn again."""
    want = jax.random.normal(jax.random.key(seed), SHAPE[1:])
    np.testing.assert_array_equal(noise_from_seed(seed, SHAPE)[0], want)


def test_every_bit_of_a_seed_counts():
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1, *(2**i for i in range(2, 64, 7))]
    drawn = {np.asarray(noise_from_seed(seed, SHAPE)).tobytes() for seed in seeds}
    assert len(drawn) == len(set(seeds))
    np.testing.assert_array_equal(
        noise_from_seed(2**32 - 1, (2, *SHAPE[1:]))[1:], noise_from_seed(2**32, SHAPE)
    )


def test_numpys_integers_are_seeds():
    want = noise_from_seed(3, SHAPE)
    for kind in (np.int32, np.uint8, np.uint64):
        np.testing.assert_array_equal(noise_from_seed(kind(3), SHAPE), want)


@pytest.mark.parametrize(
    "seed", [-1, 2**64, 10**30, 1.0, True, "3", None, [0, 1], np.float32(1), np.bool_(1)]
)
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(UserError, match="the seed is"):
        noise_from_seed(seed, SHAPE)


def test_the_seeds_of_all_pictures_have_to_fit():
    noise_from_seed(2**64 - 2, (2, *SHAPE[1:]))
    with pytest.raises(UserError, match="the seed is"):
        noise_from_seed(2**64 - 1, (2, *SHAPE[1:]))


WHOLE = np.random.default_rng(0).normal(size=(1, 16, 4, 6))


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/step1x_jax_test_was_here",)


def _npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, WHOLE)
    return file.getvalue()


def _with(value):
    changed = WHOLE.copy()
    changed[0, 3, 2, 1] = value
    return changed


STRUCTURED = np.zeros((1, 16, 4, 6), [("a", "f4"), ("b", "f4")])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_npz(), "an .npz archive"),
        (_npy(np.full((1, 16, 4, 6), Evil(), object), allow_pickle=True), "holds Python objects"),
        (pickle.dumps(Evil()), r"no readable \.npy"),
        (_npy(STRUCTURED), "holds structures"),
        (_npy(np.zeros((1, 16, 4, 6), np.int32)), "holds integers"),
        (_npy(np.zeros((1, 16, 4, 6), bool)), "holds booleans"),
        (_npy(WHOLE.astype(complex)), "holds complex numbers"),
        (_npy(WHOLE.astype(str)), "holds text"),
        (_npy(np.zeros((1, 16, 4, 6), "M8[s]")), "holds dates"),
        (_npy(_with(np.nan)), "not finite"),
        (_npy(_with(-np.inf)), "not finite"),
        (_npy(_with(1e300)), "not finite in float32"),
        (_npy(WHOLE.transpose(0, 2, 3, 1)), r"has shape \[1, 4, 6, 16\]"),
        (_npy(WHOLE[0]), r"has shape \[16, 4, 6\]"),
        (_npy(WHOLE.reshape(-1)), "has shape"),
        (_npy(WHOLE)[:-8], "is cut off"),
        (_npy(WHOLE)[:40], r"no readable \.npy"),
        (b"\x93NUMPY\x09\x00" + bytes(200), r"no readable \.npy"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16 + bytes(9), r"no readable \.npy"),
        (_npy(WHOLE).replace(b"(1, 16, 4, 6)", b"(1, 10**9, 6)"), r"no readable \.npy"),
        (_npy(WHOLE).replace(b"(1, 16, 4, 6)", b"(1, 16, 4, 7)"), "is cut off"),
        (_npy(WHOLE) + bytes(8), "or longer than its shape"),
        (b"", r"no readable \.npy"),
    ],
)
def test_files_that_hold_no_noise_are_refused_unread(tmp_path, data, reason):
    (tmp_path / "noise.npy").write_bytes(data)
    with pytest.raises(UserError, match=reason) as error:
        noise_given(tmp_path / "noise.npy", SHAPE)
    assert str(tmp_path / "noise.npy") in str(error.value)
    assert not os.path.exists("/tmp/step1x_jax_test_was_here")


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
def test_floats_of_all_widths_and_orders_are_read(tmp_path, kind):
    np.save(tmp_path / "noise.npy", np.asfortranarray(WHOLE.astype(kind)))
    want = WHOLE.astype(kind).astype(np.float32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(noise_given(tmp_path / "noise.npy", SHAPE), want)


def test_a_pipe_is_no_noise(tmp_path):
    os.mkfifo(tmp_path / "noise.npy")
    with pytest.raises(UserError, match="a pipe or a device"):
        noise_given(tmp_path / "noise.npy", SHAPE)
