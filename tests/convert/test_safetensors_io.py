"""Our reader and writer against the safetensors package, and what happens to bad files."""

import errno
import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.convert.safetensors_io import SafetensorsFile, write_safetensors
from step1x_jax.errors import UserError

TENSORS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.weight": np.arange(4, dtype=ml_dtypes.bfloat16),
    "scalar": np.array(2.5, np.float64),
    "ids": np.array([[3, -1]], np.int64),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.float16),
}


def specs(tensors):
    return {name: (x.shape, x.dtype) for name, x in tensors.items()}


def test_a_file_of_the_package_is_read_and_written_byte_for_byte(tmp_path):
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    save_file(TENSORS, theirs, metadata={"format": "pt"})
    file = SafetensorsFile(theirs)
    assert file.metadata == {"format": "pt"}
    for name, want in TENSORS.items():
        np.testing.assert_array_equal(file.read(name), want)
        assert file.read(name).dtype == want.dtype
    write_safetensors(ours, specs(TENSORS), file.read, file.metadata)
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_package_reads_our_file(tmp_path):
    path = tmp_path / "made" / "x.safetensors"  # the folder is made
    write_safetensors(path, specs(TENSORS), TENSORS.__getitem__)
    loaded = load_file(path)
    for name, want in TENSORS.items():
        np.testing.assert_array_equal(loaded[name], want)


@pytest.mark.parametrize("rows", [[0], [1, 2, 5], [4, 5], range(6)])
def test_rows_alone_are_read(tmp_path, rows, monkeypatch):
    x = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    save_file({"a": np.ones(3, np.float32), "x": x}, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    lengths, read = [], file._bytes
    monkeypatch.setattr(
        file, "_bytes", lambda *args: lengths.append(args[2] - args[1]) or read(*args)
    )
    np.testing.assert_array_equal(file.read("x", np.array(rows)), x[list(rows)])
    assert sum(lengths) == 16 * len(rows)
    assert len(lengths) == 1 + np.count_nonzero(np.diff(rows) != 1)


def test_a_file_is_opened_once(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    file = SafetensorsFile(path)
    handle = file._file
    path.rename(tmp_path / "moved")  # it could not be opened again
    for name, want in TENSORS.items():
        np.testing.assert_array_equal(file.read(name), want)
    assert not handle.closed
    del file
    assert handle.closed


def test_a_file_that_shrinks_while_it_is_open_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": np.zeros((1000, 100))}, path)
    file = SafetensorsFile(path)
    os.truncate(path, 400_000)
    file.read("x", np.arange(400))
    for rows in (None, np.arange(500, 600)):
        with pytest.raises(UserError, match=r"x\.safetensors ended while reading x; fetch"):
            file.read("x", rows)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut\.safetensors is (damaged \()?truncated"):
        SafetensorsFile(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "picture.safetensors"
    path.write_bytes(b"\x89PNG" * 100)
    with pytest.raises(UserError, match="truncated or not a safetensors file"):
        SafetensorsFile(path)
    body = b"{not json"
    path.write_bytes(len(body).to_bytes(8, "little") + body)
    with pytest.raises(UserError, match="unreadable header"):
        SafetensorsFile(path)
    with pytest.raises(UserError, match="does not exist"):
        SafetensorsFile(tmp_path / "absent.safetensors")


def test_overlapping_tensors_are_refused(tmp_path):
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "overlap.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    with pytest.raises(UserError, match="the header gives b bytes"):
        SafetensorsFile(path)


def with_header(path, text, data_bytes=16):
    """A file with that header."""
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))
    return path


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ('"a": E, "a": E', "'a' occurs twice"),
        ('"a": {"dtype": "F32", "dtype": "F32", "shape": [4], "data_offsets": [0, 16]}', "twice"),
        (
            '"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 16]}',
            "the dtype 'F4' is unknown",
        ),
        ('"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}', "not all whole numbers"),
        ('"a": {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]}', "not all whole numbers"),
        ('"a": {"dtype": "F32", "shape": [true, 4], "data_offsets": [0, 16]}', "not all whole"),
        ('"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}', "unreadable header"),
        ('"a": {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}', "unreadable header"),
        ('"a": {"dtype": "F32", "shape": [4]}', "unreadable header"),
        ('"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}', "the header gives a"),
        (
            '"a": {"dtype": "F32", "shape": [1e30], "data_offsets": [0, 16]}',
            "not all whole numbers",
        ),
        (
            '"a": {"dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 4]}',
            "gives a",
        ),
        ('"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}', "the header gives a"),
        ('"a": 3', "unreadable header"),
        ('"__metadata__": {"n": 3}, "a": E', "not all strings"),
        ('"a": ' + "[" * 100_000, "unreadable header"),
    ],
)
def test_absurd_headers_are_refused(tmp_path, entries, words):
    good = '{"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'
    text = ("{" + entries.replace(": E", f": {good}") + "}").encode()
    with pytest.raises(UserError, match=words):
        SafetensorsFile(with_header(tmp_path / "x.safetensors", text))


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(100))
    with pytest.raises(UserError, match="truncated or not a safetensors file"):
        SafetensorsFile(path)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")

    def full_after_one(name):
        if name == "mask":  # the last one in the file
            raise OSError(errno.ENOSPC, "No space left on device")
        return TENSORS[name]

    with pytest.raises(UserError, match=r"could not be written \(No space left"):
        write_safetensors(path, specs(TENSORS), full_after_one)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
