"""Fingerprints against the same sums in Python integers, written from their definition."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.weights.run.fingerprints import (
    combine,
    describe_arrays,
    fingerprint_of,
    fingerprints,
    matches,
)


def expected(x, places=None):
    """The definition: the sums of bits and of MurmurHash3's finalizer of bits and index."""
    x, sums = np.asarray(x).reshape(-1), [0, 0]
    for place, number in zip(range(x.size) if places is None else places, x, strict=True):
        bits = int.from_bytes(number.tobytes(), "little")
        h = bits ^ (place * 0x9E3779B1 & 0xFFFFFFFF)
        h ^= h >> 16
        h = h * 0x85EBCA6B & 0xFFFFFFFF
        h ^= h >> 13
        h = h * 0xC2B2AE35 & 0xFFFFFFFF
        h ^= h >> 16
        sums = [(sums[0] + bits) % 2**32, (sums[1] + h) % 2**32]
    return sums


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def of(x):
    return fingerprints({"x": x})["x"].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int8"])
@pytest.mark.parametrize("shape", [(), (5,), (8, 3), (2, 4, 3)])
def test_device_and_host_agree_with_the_definition(dtype, shape):
    x = (100 * numbers(*shape)).astype(jnp.dtype(dtype))
    assert of(x) == fingerprint_of(x) == expected(x)


def test_they_do_not_depend_on_the_sharding():
    x, mesh = numbers(64, 8), make_mesh(MeshConfig())
    for spec in (jax.P(), jax.P("fsdp"), jax.P(None, "fsdp")):
        assert of(jax.device_put(x, jax.NamedSharding(mesh, spec))) == expected(x)


def test_nothing_but_sums_travels():
    x, mesh = numbers(64, 8), make_mesh(MeshConfig())
    x = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, "fsdp")))
    text = fingerprints.lower({"x": x}).compile().as_text()
    collective = r"= \(?u32\[([\d,]*)\].* (?:all-|collective-|reduce-scatter)"
    sizes = [match[1] for match in re.finditer(collective, text)]
    assert sizes  # of sums: one of each device, and not of the 64 x 8 numbers
    assert all(
        math.prod(map(int, filter(None, size.split(",")))) <= 2 * mesh.size for size in sizes
    )
    assert len(sizes) == len(re.findall(r" (?:all-|collective-|reduce-scatter)[\w-]*\(", text))


def test_no_copy_of_an_array_is_made():
    x = jax.ShapeDtypeStruct((64, 4096), jnp.bfloat16)
    compiled = fingerprints.lower({"x": x}).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4096


@pytest.mark.parametrize("chunk", [4, 13, 1 << 16])
@pytest.mark.parametrize("cut", [(1, 8, 6), (2, 3, 6), (2, 8, 5), (1, 3, 5), (2, 1, 1)])
def test_blocks_add_up_to_the_whole(cut, chunk, monkeypatch):
    """Of rows that are apart in the array, and longer or shorter than what is hashed at once."""
    monkeypatch.setattr("step1x_jax.weights.run.fingerprints.CHUNK", chunk)
    x, parts = numbers(4, 8, 6), []
    for i in range(0, 4, cut[0]):
        for j in range(0, 8, cut[1]):
            for k in range(0, 6, cut[2]):
                block = x[i : i + cut[0], j : j + cut[1], k : k + cut[2]]
                parts.append(fingerprint_of(block, (i, j, k), x.shape))
    assert combine(*parts) == expected(x)


def test_large_arrays_are_hashed_in_chunks(monkeypatch):
    monkeypatch.setattr("step1x_jax.weights.run.fingerprints.CHUNK", 7)
    x = numbers(5, 6)
    assert fingerprint_of(x) == expected(x)


def test_the_order_in_memory_does_not_count():
    x = numbers(4, 8, 6)
    for view in (x.T, x[:, ::2], x[::-1, 1:, :5]):
        assert not view.flags.c_contiguous
        assert fingerprint_of(view) == expected(view)


def test_places_are_counted_modulo_the_hash():
    """A block that begins beyond number 2^32 of its array."""
    x, columns = numbers(2, 3), (1 << 33) + 5
    places = [(7 + i) * columns + 1 + j for i in range(2) for j in range(3)]
    assert fingerprint_of(x, (7, 1), (9, columns)) == expected(x, places)


def swap_neighbours(bits):
    bits[[3, 4]] = bits[[4, 3]]


def flips_that_cancel(bits):
    bits[7] ^= 1  # one up
    bits[9] ^= 1
    assert {int(bits[7]) & 1, int(bits[9]) & 1} == {0, 1}


def two_signs(bits):
    bits[[5, 6]] ^= 1 << 31


def swap_rows(bits):
    bits[:16] = np.roll(bits[:16], 8)


@pytest.mark.parametrize("change", [swap_neighbours, flips_that_cancel, two_signs, swap_rows])
def test_changes_that_leave_the_sum(change):
    x = numbers(8, 8)
    x.view(np.uint32).reshape(-1)[[7, 9]] = 6, 7
    before, sums = describe_arrays({"x": jnp.asarray(x)})["x"], int(x.view(np.uint32).sum() % 2**32)
    change(x.view(np.uint32).reshape(-1))
    assert int(x.view(np.uint32).sum() % 2**32) == sums  # what checkpoints once noted
    assert not matches(before, describe_arrays({"x": jnp.asarray(x)})["x"])


def test_every_single_bit_counts():
    x = numbers(2, 3)
    whole = fingerprint_of(x)
    for place in range(x.size):
        for bit in range(32):
            y = x.copy()
            y.view(np.uint32).reshape(-1)[place] ^= np.uint32(1 << bit)
            assert fingerprint_of(y)[1] != whole[1]
