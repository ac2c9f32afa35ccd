"""Every wrapper passes rows on: it returns the same rows, and reads no others."""

import collections
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.weights.files.fp8 import Fp8File, QuantizeToFp8
from step1x_jax.weights.files.opening import StripPrefix
from step1x_jax.weights.finite import RequireFinite
from step1x_jax.weights.layouts.official import ParamSlice, TensorEntry
from step1x_jax.weights.lora.file import LoraDelta
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.official_tensors import OfficialTensors
from step1x_jax.weights.readers import (
    Cast,
    CheckOnFirstRead,
    InMemory,
    LayoutMap,
    Override,
    Relayout,
    RowRange,
)

BF16, E4M3, F32 = (np.dtype(x) for x in (jnp.bfloat16, jnp.float8_e4m3fn, np.float32))


class Counting:
    """A reader of arrays that counts the requested rows."""

    path = "counting.safetensors"

    def __init__(self, arrays, metadata=None):
        self._held = InMemory(arrays, metadata)
        self.shapes, self.dtypes = self._held.shapes, self._held.dtypes
        self.metadata = self._held.metadata
        self.rows_read = collections.Counter()  # of (name, row)

    def read(self, name, rows=None):
        array = self._held.read(name, rows)
        if array.ndim:
            seen = range(self.shapes[name][0]) if rows is None else rows.tolist()
            self.rows_read.update((name, row) for row in seen)
        return array


def numbers(*shape, dtype=F32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def row_sets(height):
    """First, last, scattered, neighbours, all."""
    sets = [[0], [height - 1], [*range(0, height, 3)], [height // 2 - 1, height // 2]]
    return [np.array(rows) for rows in [*sets, [*range(height)]]]


def check_rows(tensors, name, wanted):
    """Compares a whole tensor and sets of its rows with an array."""
    assert tensors.shapes[name] == wanted.shape
    assert tensors.dtypes[name] == wanted.dtype
    whole = tensors.read(name)
    assert (whole.shape, whole.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(whole, wanted)
    for rows in row_sets(len(wanted)):
        found = tensors.read(name, rows)
        assert (found.shape, found.dtype) == ((len(rows), *wanted.shape[1:]), wanted.dtype)
        np.testing.assert_array_equal(found, wanted[rows], err_msg=f"{name} {rows}")


def check_what_is_read(source, tensors, name, source_of):
    """Asserts that for each set of rows, each row is read once and no other.

    Args:
      source: a counting reader.
      tensors: what is around it.
      name: of a tensor.
      source_of: tensor and row in the source of each row.
    """
    for rows in row_sets(tensors.shapes[name][0]):
        source.rows_read.clear()
        tensors.read(name, rows)
        assert source.rows_read == collections.Counter(source_of[row] for row in rows)


def rows_of(name, *rows):
    return [(name, row) for row in rows]


A, B = numbers(6, 3, dtype=BF16), numbers(5, 3, seed=1)
LAYOUT = LayoutMap(
    {"a": (6, 3), "b": (5, 3), "e": (5, 3)},
    {"c": (9, 3), "d": (2, 3), "e": (5, 3, 1, 1)},
    [
        RowRange("b", 0, "c", 4, 5),
        RowRange("a", 2, "c", 0, 4),
        RowRange("a", 0, "d", 0, 2),
        RowRange("e", 0, "e", 0, 5),
    ],
)
ROWS_OF_C = [("a", 2), ("a", 3), ("a", 4), ("a", 5), *(("b", row) for row in range(5))]


def test_rearranged():
    """c is the last rows of a, then b, whose dtypes differ; e has two axes more there."""
    source = Counting({"a": A, "b": B, "e": B})
    tensors = Relayout(source, LAYOUT)
    check_rows(tensors, "c", np.concatenate([A[2:].astype(F32), B]))
    check_rows(tensors, "d", A[:2])
    check_rows(tensors, "e", B.reshape(5, 3, 1, 1))
    check_what_is_read(source, tensors, "c", ROWS_OF_C)
    check_what_is_read(source, tensors, "d", rows_of("a", 0, 1))
    check_what_is_read(source, tensors, "e", rows_of("e", *range(5)))
    back = Relayout(tensors, LAYOUT.inverse())
    check_rows(back, "a", A.astype(F32))
    check_rows(back, "b", B)
    check_rows(back, "e", B)


def test_changed():
    source = Counting({"a": A, "b": B, "c": B}, {"format": "pt"})
    tensors = Override(source, {"a": None, "b": (A.shape, A.dtype, lambda: A)}, {"note": "x"})
    assert (tensors.shapes.keys(), tensors.metadata) == ({"b", "c"}, {"note": "x"})
    check_rows(tensors, "b", A)
    assert not source.rows_read
    check_rows(tensors, "c", B)
    check_what_is_read(source, tensors, "c", rows_of("c", *range(5)))


def test_cast():
    """To nearest, ties to even: bfloat16 has seven mantissa bits."""
    given = np.float32([[1 + 2**-8], [1 + 3 * 2**-8], [-1 - 2**-7], [3e38], [2.0**-130], [0]])
    wanted = np.float32([[1], [1 + 2**-6], [-1 - 2**-7], [3e38], [2.0**-130], [0]])
    wanted[3] = np.uint32([0x7F62 << 16]).view(F32)  # 3e38 is 0x7f61b1e6
    source = Counting({"a": given})
    tensors = Cast(source, BF16)
    check_rows(tensors, "a", wanted.astype(BF16))
    np.testing.assert_array_equal(tensors.read("a").astype(F32), wanted)
    check_what_is_read(source, tensors, "a", rows_of("a", *range(6)))


def test_without_prefix_and_finite():
    given = B.copy()
    given[4, 1] = np.inf
    source = Counting({"model.b": given})
    tensors = StripPrefix(source, "model.")
    check_rows(tensors, "b", given)
    checked = RequireFinite(tensors, "x")
    np.testing.assert_array_equal(checked.read("b", np.array([0, 3])), given[[0, 3]])
    assert {row for _, row in source.rows_read} == {0, 1, 2, 3, 4}
    with pytest.raises(UserError, match="b has numbers that are not finite"):
        checked.read("b", np.array([0, 4]))
    check_what_is_read(source, tensors, "b", rows_of("model.b", *range(5)))


def test_checked_first():
    """The check runs once, before the first read; nothing is read until it passes."""
    source, checks = Counting({"b": B}), [UserError("other weights"), None]

    def check():
        assert not source.rows_read
        if (error := checks.pop(0)) is not None:
            raise error

    tensors = CheckOnFirstRead(source, check)
    assert len(checks) == 2
    with pytest.raises(UserError, match="other weights"):
        tensors.read("b")
    check_rows(tensors, "b", B)
    assert checks == []
    check_what_is_read(source, tensors, "b", rows_of("b", *range(5)))


class LoraOf:
    """A LoRA of given deltas that records requests."""

    def __init__(self, shapes, *pieces):
        self.shapes, self._pieces, self.asked = shapes, pieces, []

    def deltas(self, module):
        self.asked.append(module)
        return list(self._pieces)


def test_merged():
    """Two LoRAs, one on some rows only; numbers are integers, so sums are exact."""
    rng = np.random.default_rng(0)
    up, down, up2, down2, base = (
        rng.integers(-8, 9, shape).astype(F32) for shape in ((4, 2), (2, 4), (9, 1), (1, 4), (9, 4))
    )
    lora = LoraOf({"m": (9, 4)}, LoraDelta(3, down, up, 4.0))
    other = LoraOf({"m": (9, 4), "n": (9, 4)}, LoraDelta(0, down2, up2, 1.0))
    source = Counting({"m.weight": base, "m.bias": base[:, 0], "n.weight": 2 * base})
    tensors = Merged(source, [(lora, 0.5), (other, 2.0)])
    second = 2 * np.einsum("or,ri->oi", up2, down2)
    wanted = base + second
    wanted[3:7] += 0.5 * 4 / 2 * np.einsum("or,ri->oi", up, down)
    check_rows(tensors, "m.weight", wanted)
    check_rows(tensors, "n.weight", 2 * base + second)
    check_rows(tensors, "m.bias", base[:, 0])
    assert (lora.asked, other.asked) == (["m"], ["m", "n"])  # once for all rows
    for name in source.shapes:
        check_what_is_read(source, tensors, name, rows_of(name, *range(9)))


def test_merged_is_rounded_alike_in_rows():
    """Exactly, at sizes for which matmuls of different heights sum in different orders."""
    base, up, down = numbers(96, 80), numbers(96, 48, seed=1), numbers(48, 80, seed=2)
    lora = LoraOf({"m": (96, 80)}, LoraDelta(0, down, up, 1.0))
    for dtype in (F32, BF16):
        tensors = Merged(InMemory({"m.weight": base}), [(lora, 1.0)], {"m.weight": dtype})
        check_rows(tensors, "m.weight", tensors.read("m.weight"))
        near = base + (up @ down) / 48
        atol = 2**-8 * np.abs(near).max() if dtype == BF16 else 1e-5  # one rounding; 48 products
        np.testing.assert_allclose(tensors.read("m.weight").astype(F32), near, atol=atol)


@pytest.mark.parametrize("scale", [np.float32(0.25), np.float32(2.0) ** np.arange(-3, 3)])
def test_fp8_file(scale):
    """A scale for each weight, or for each row."""
    stored = numbers(6, 3, dtype=E4M3)
    source = Counting({"m.weight": stored, "m.scale_weight": scale, "m.bias": B[:, 0]})
    tensors = Fp8File(source)
    assert tensors.shapes.keys() == {"m.weight", "m.bias"}
    wanted = (stored.astype(F32) * scale.reshape(-1, 1)).astype(BF16)
    check_rows(tensors, "m.weight", wanted)
    check_rows(tensors, "m.bias", B[:, 0])
    check_what_is_read(source, tensors, "m.weight", rows_of("m.weight", *range(6)))
    check_what_is_read(source, tensors, "m.bias", rows_of("m.bias", *range(5)))


WEIGHT, SCALE = "double_blocks.0.m.weight", "double_blocks.0.m.scale_weight"


def test_in_fp8_plain():
    given = numbers(6, 4)
    source = Counting({WEIGHT: given, "m.bias": B})
    tensors = QuantizeToFp8(source, scaled=False)
    check_rows(tensors, WEIGHT, given.astype(E4M3))
    check_rows(tensors, "m.bias", B.astype(BF16))
    check_what_is_read(source, tensors, WEIGHT, rows_of(WEIGHT, *range(6)))
    check_what_is_read(source, tensors, "m.bias", rows_of("m.bias", *range(5)))


@pytest.mark.parametrize("first", range(5))
def test_in_fp8_scaled(first):
    """The scale is that of the whole tensor, whichever rows are read first."""
    given = numbers(6, 4)
    given[4, 1] = -56.0  # the largest: a scale of 1 / 8
    source = Counting({WEIGHT: given})
    tensors = QuantizeToFp8(source, scaled=True)
    wanted = (given * 8).astype(E4M3)
    rows = row_sets(6)[first]
    np.testing.assert_array_equal(tensors.read(WEIGHT, rows), wanted[rows])
    check_rows(tensors, WEIGHT, wanted)
    np.testing.assert_array_equal(tensors.read(SCALE), np.float32(0.125))
    # once the scale is known
    check_what_is_read(source, tensors, WEIGHT, rows_of(WEIGHT, *range(6)))


class CountingLeaf:
    """A parameter that records which of its layers are requested."""

    def __init__(self, array, read):
        self._array, self._read, self.dtype = array, read, array.dtype

    def __getitem__(self, layer):
        self._read.append(layer)
        return self._array[layer]


def test_published():
    """w: (4, 3) of a above layer 1 of b; v: the same side by side."""
    a, b, read = numbers(3, 4), numbers(2, 3, 5, seed=1), []
    parts = ParamSlice("a", None, (4, 3), (1, 0)), ParamSlice("b", 1, (5, 3), (1, 0))
    sides = ParamSlice("c", None, (4, 3), (1, 0)), ParamSlice("d", 0, (4, 5), (0, 1))
    table = {"w": TensorEntry("w", (9, 3), parts), "v": TensorEntry("v", (4, 8), sides, axis=1)}
    c, d = numbers(3, 4, seed=2), numbers(2, 4, 5, seed=3)
    leaves = {"a": a, "b": CountingLeaf(b, read), "c": c, "d": d}
    tensors = OfficialTensors(table, leaves)
    check_rows(tensors, "w", np.concatenate([a.T, b[1].T]))
    check_rows(tensors, "v", np.concatenate([c.T, d[0]], axis=1))
    for rows, layers in (([0, 3], []), ([4], [1]), ([3, 8], [1])):
        read.clear()
        tensors.read("w", np.array(rows))
        assert read == layers


def test_one_around_another():
    """Wrappers nested as in launch.convert pass rows through."""
    source = Counting({"a": A, "b": B, "e": B})
    ranges = [dataclasses.replace(part, target=f"{part.target}.weight") for part in LAYOUT.ranges]
    layout = LayoutMap(
        LAYOUT.source, {f"{n}.weight": shape for n, shape in LAYOUT.target.items()}, ranges
    )
    lora = LoraOf({"c": (9, 3)}, LoraDelta(0, np.eye(3), np.eye(9, 3), 3.0))
    merged = Merged(Relayout(Override(source, {}), layout), [(lora, 1.0)])
    tensors = RequireFinite(Cast(CheckOnFirstRead(merged, lambda: None), BF16), "x")
    wanted = np.concatenate([A[2:].astype(F32), B])
    wanted[:3] += np.eye(3)
    check_rows(tensors, "c.weight", wanted.astype(BF16))
    check_what_is_read(source, tensors, "c.weight", ROWS_OF_C)
