"""Blocks of arrays: read ahead, and written while others are made."""

import numpy as np
import pytest
import tensorstore as ts
from etils import epath
from orbax.checkpoint import v1 as ocp

from step1x_jax.weights.run import stored_arrays
from step1x_jax.weights.run.stored_arrays import (
    ArraySpec,
    block_writer,
    create_arrays,
    open_array,
    read_blocks,
    save_context,
)


@pytest.fixture
def room(tmp_path):
    """Returns an array of `create_arrays`, of 6 blocks of 64 bytes, and its item."""
    with save_context():
        ocp.save(tmp_path / "0", {"x": np.zeros(1, np.float32), "y": np.zeros(1, np.float32)})
    item = epath.Path(tmp_path / "0" / "state")
    assert item.is_dir()
    return item, create_arrays(item, {"x": ArraySpec((6, 4, 4), (1, 4, 4), np.dtype(np.float32))})[
        "x"
    ]


def numbers():
    return np.arange(96, dtype=np.float32).reshape(6, 4, 4)


def fill(array):
    with block_writer() as write:
        for i, block in enumerate(numbers()):
            write(array, np.s_[i : i + 1], block[None])


def test_orbax_reads_what_was_put_in_the_place_of_its_array(room):
    item, array = room
    fill(array)
    found = ocp.load_checkpointables(item.parent)["state"]
    np.testing.assert_array_equal(found["x"], numbers())
    np.testing.assert_array_equal(found["y"], [0])


def test_large_blocks_are_cut(room, monkeypatch):
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", 20 * 4)
    item, _ = room
    array = create_arrays(item, {"x": ArraySpec((2, 9, 9), (1, 9, 9), np.dtype(np.float32))})["x"]
    assert array.chunk_layout.read_chunk.shape == (1, 3, 5)
    want = np.arange(162, dtype=np.float32).reshape(2, 9, 9)
    with block_writer() as write:
        write(array, np.s_[:], want)
    blocks = list(read_blocks(open_array(item, "x")))
    assert len(blocks) == 2 * 3 * 2
    for index, block in blocks:
        np.testing.assert_array_equal(block, want[index])


class Counting:
    """An array, or a slice of it, that counts started reads of blocks."""

    def __init__(self, array, counts):
        self._array, self._counts = array, counts

    def __getattr__(self, name):
        return getattr(self._array, name)

    def __getitem__(self, index):
        return Counting(self._array[index], self._counts)

    def read(self):
        self._counts.append(self._array.size)
        return self._array.read()


@pytest.mark.parametrize(("limit", "ahead"), [(1, 1), (127, 1), (128, 2), (200, 3), (1 << 20, 5)])
def test_blocks_are_read_ahead_within_bounds(room, monkeypatch, limit, ahead):
    item, array = room
    fill(array)
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", limit)
    begun, taken = [], 0
    for index, block in read_blocks(Counting(open_array(item, "x"), begun)):
        assert index[0] == slice(taken, taken + 1)
        np.testing.assert_array_equal(block, numbers()[index])
        taken += 1
        assert len(begun) == min(taken + ahead, 6)
    assert taken == 6


class Broken(Counting):
    """An array of which only the first block can be read."""

    def __getitem__(self, index):
        return Broken(self._array[index], self._counts)

    def read(self):
        future = super().read()
        if len(self._counts) > 1:
            promise, future = ts.Promise.new()
            promise.set_exception(ValueError("gone"))
        return future


def test_a_block_that_is_gone_is_an_error_in_its_turn(room):
    item, array = room
    fill(array)
    blocks = read_blocks(Broken(open_array(item, "x"), []))
    np.testing.assert_array_equal(next(blocks)[1], numbers()[:1])
    with pytest.raises(ValueError, match="gone"):
        next(blocks)


class Slow:
    """An array whose writes finish when they are awaited; some fail."""

    def __init__(self, failing=()):
        self.under_way, self.most, self.written, self._failing = 0, 0, 0, failing

    def __getitem__(self, index):
        return self

    def write(self, block, can_reference_source_data_indefinitely):
        assert can_reference_source_data_indefinitely  # no copy
        self.under_way += block.nbytes
        self.most = max(self.most, self.under_way)
        self.written += 1
        return Writing(self, block.nbytes, self.written in self._failing)


class Writing:
    def __init__(self, array, size, fails):
        self._array, self._size, self._fails = array, size, fails

    def exception(self):
        self._array.under_way -= self._size
        self._size = 0
        return ValueError("no room") if self._fails else None

    def result(self):
        if error := self.exception():
            raise error


@pytest.mark.parametrize(("limit", "most"), [(1, 40), (80, 80), (100, 80), (120, 120)])
def test_few_blocks_are_on_their_way(monkeypatch, limit, most):
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", limit)
    array = Slow()
    with block_writer() as write:
        for _ in range(9):
            write(array, np.s_[:], np.zeros(10, np.float32))
    assert (array.most, array.under_way, array.written) == (most, 0, 9)


def test_nothing_is_on_its_way_after_an_error(monkeypatch):
    """Otherwise it would be written to a folder that is being removed."""
    array = Slow()
    with pytest.raises(KeyError), block_writer() as write:
        for _ in range(3):
            write(array, np.s_[:], np.zeros(10, np.float32))
        assert array.under_way == 120
        raise KeyError
    assert array.under_way == 0


@pytest.mark.parametrize("failing", [(1,), (3,), (9,), (1, 2, 9)])
def test_no_error_is_lost(monkeypatch, failing):
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", 80)
    array = Slow(failing)
    with pytest.raises(ValueError, match="no room"), block_writer() as write:
        for _ in range(9):
            write(array, np.s_[:], np.zeros(10, np.float32))
    assert array.under_way == 0
