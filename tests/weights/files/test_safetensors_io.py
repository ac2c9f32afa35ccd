"""Our reader and writer against the safetensors package, and what happens to bad files."""

import errno
import json
import os
import time

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.weights.files.safetensors_io import SafetensorsFile, write_safetensors
from step1x_jax.weights.finite import is_finite
from step1x_jax.weights.readers import InMemory, Override

TENSORS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.weight": np.arange(4, dtype=ml_dtypes.bfloat16),
    "scalar": np.array(2.5, np.float64),
    "ids": np.array([[3, -1]], np.int64),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.float16),
}


def test_a_file_of_the_package_is_read_and_written_byte_for_byte(tmp_path):
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    save_file(TENSORS, theirs, metadata={"format": "pt"})
    file = SafetensorsFile(theirs)
    assert file.metadata == {"format": "pt"}
    for name, want in TENSORS.items():
        np.testing.assert_array_equal(file.read(name), want)
        assert file.read(name).dtype == want.dtype
    write_safetensors(ours, file)
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_package_reads_our_file(tmp_path):
    path = tmp_path / "made" / "x.safetensors"  # the folder is made
    write_safetensors(path, InMemory(TENSORS))
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
    path.rename(tmp_path / "moved")  # so it cannot be opened again
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
        with pytest.raises(UserError, match=r"x\.safetensors ended while reading x: it has become"):
            file.read("x", rows)


@pytest.mark.parametrize("keep", [5, 60, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut\.safetensors is (damaged \()?truncated"):
        SafetensorsFile(path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "is empty, not a safetensors file; download it again"),
        (b"GGUF\3\0\0\0" + bytes(100), "is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>" + b"x" * 99, "is a web page"),
        (b'{"error": "Invalid username or password."}', "is a JSON text"),
        (b"PK\3\4" + bytes(100), "is a zip archive, as PyTorch"),
        (b"\x80\4\x95" + bytes(100), "is a pickle"),
        (b"\x89PNG" * 100, "is a PNG picture"),
        (b"Entry not found.", "is a text file"),
        (bytes(1000), "is all zeros"),
        (b"\xfe" * 100, "is truncated or not a safetensors file"),
    ],
)
def test_other_files_are_told_what_they_are(tmp_path, start, words):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(start)
    with pytest.raises(UserError, match=words):
        SafetensorsFile(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "picture.safetensors"
    body = b"{not json"
    path.write_bytes(len(body).to_bytes(8, "little") + body)
    with pytest.raises(UserError, match="unreadable header"):
        SafetensorsFile(path)
    with pytest.raises(UserError, match="does not exist"):
        SafetensorsFile(tmp_path / "absent.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="is not a file"):
        SafetensorsFile(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        SafetensorsFile(tmp_path)


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
    """Writes a file with that header."""
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))
    return path


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ('"a": E, "a": E', "'a' occurs twice"),
        ('"a": {"dtype": "F32", "dtype": "F32", "shape": [4], "data_offsets": [0, 16]}', "twice"),
        (
            '"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 16]}',
            "a is stored as F4, which cannot be read; give the weights in bfloat16",
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
        ('"__metadata__": [["n", "m"]], "a": E', "metadata are not a JSON object"),
        ('"\\ud800": E', "unreadable header"),
        ('"a\\u001b[31m": E', r"name is 'a\\x1b"),
        ('"a": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}', "dtype of a is"),
        ('"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}', "unreadable header"),
        ('"a": {"dtype": "F32", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 16]}', "unread"),
        ('"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}', "should have a"),
        ('"a": {"dtype": "F32", "shape": [' + "9," * 9999 + '9], "data_offsets": [0]}', "few num"),
    ],
)
def test_absurd_headers_are_refused(tmp_path, entries, words):
    good = '{"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'
    text = ("{" + entries.replace(": E", f": {good}") + "}").encode()
    with pytest.raises(UserError, match=words) as error:
        SafetensorsFile(with_header(tmp_path / "x.safetensors", text))
    assert len(str(error.value)) < 600


@pytest.mark.slow
@pytest.mark.parametrize("twins", [True, False])
def test_many_and_long_names_take_no_more_than_their_share_of_time(tmp_path, twins):
    """A quadratic search would take minutes; the message must not contain a name of a megabyte."""
    entry = '{"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'
    names = [f"a{i}" for i in range(60_000)] * 2 if twins else ["a" * 1_000_000]
    text = ("{" + ",".join(f'"{name}":{entry}' for name in names) + "}").encode()
    begin = time.process_time()
    with pytest.raises(UserError, match="occurs twice" if twins else "of 1000000 char") as error:
        SafetensorsFile(with_header(tmp_path / "x.safetensors", text))
    assert len(str(error.value)) < 600
    assert time.process_time() - begin < 20  # it takes a second or two


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"])
def test_what_is_finite_of_every_number(name):
    """All numbers of the 8-bit and 16-bit formats, together and each on its own."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    bits = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    numbers = bits.view(dtype)
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(numbers.astype(np.float64))
    assert is_finite(numbers[finite])
    for i in np.flatnonzero(~finite)[::7]:
        assert not is_finite(numbers[i : i + 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen(dtype, value):
    array = np.full((7, 20_000), -np.finfo(dtype).max, dtype)
    assert is_finite(array)
    assert is_finite(array[:0])
    array[6, 19_999] = value
    assert not is_finite(array)
    assert not is_finite(array[6:].T)
    assert is_finite(array[:6])


def test_a_tensor_that_is_not_finite_is_named_when_it_is_read(tmp_path):
    x = np.zeros((4, 3), np.float32)
    x[2, 1] = np.nan
    save_file({"x.weight": x, "y": x[:2]}, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    file.read("y")
    file.read("x.weight", np.array([0, 3]))
    for rows in (None, np.array([2])):
        with pytest.raises(UserError, match=r"x\.safetensors: x\.weight has numbers that are not"):
            file.read("x.weight", rows)


def test_a_disk_that_fails_is_no_damage(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")

    class Broken:
        def seek(self, *_):
            raise OSError(errno.EIO, "Input/output error")

    file._file = Broken()
    with pytest.raises(UserError, match=r"could not be read at ids \(Input/output error\)"):
        file.read("ids")


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(100))
    with pytest.raises(UserError, match="truncated or not a safetensors file"):
        SafetensorsFile(path)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    # the last one in the file
    full_at_last = Override(InMemory(TENSORS), {"mask": ((3,), np.dtype(bool), full)})
    with pytest.raises(UserError, match=r"could not be written \(No space left"):
        write_safetensors(path, full_at_last)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
