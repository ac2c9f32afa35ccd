"""Reads and writes .safetensors one tensor at a time, on a disk or on object storage.

The format: a little-endian u64 (length of the header), a JSON header that gives each tensor's
dtype, shape and byte range, and the bytes. The safetensors package writes only dicts that are in
memory as a whole, but a 25 GB model should be streamed. Tensors are stored in the order of that
package, so a file that it wrote is reproduced byte for byte.
"""

import collections
import dataclasses
import json
import math
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import file_size, is_file, is_remote, read_range, reason, replacing
from step1x_jax.json_files import parse_json, shown
from step1x_jax.weights.files.file_signatures import SIGNATURE_BYTES, identify_file
from step1x_jax.weights.finite import check_finite
from step1x_jax.weights.readers import RowIndices, Tensors, nbytes

# In the order in which the safetensors package sorts a file's tensors, reversed.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
RANK = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}
MAX_HEADER = 100_000_000
MAX_NAME = 500  # characters of a tensor's name; a model's longest have a hundred
MAX_AXES = 16
READABLE = "bfloat16, float16, float32 or 8 bits (float8_e4m3fn, float8_e5m2)"


class UnreadableDtypeError(ValueError):
    """The header is valid, but numbers have a dtype that is not supported."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """The header's entry of one tensor; its bytes are `begin` to `end` after the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(text: bytes, data_bytes: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return a header's tensors and metadata.

    Args:
      text: the JSON of the header.
      data_bytes: number of bytes after the header.

    Raises:
      UnreadableDtypeError: a tensor has a dtype that is not supported.
      ValueError: the header is unreadable, or its tensors do not fill those bytes without gaps.
    """
    try:
        header = parse_json_object(text, "the header")
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict):
            raise ValueError("its metadata are not a JSON object")
        if not all(isinstance(x, str) for pair in metadata.items() for x in pair):
            raise ValueError("its metadata are not all strings")
        tensors = {name: _info(name, entry) for name, entry in header.items()}
    except UnreadableDtypeError:
        raise
    except ValueError as e:
        raise ValueError(f"unreadable header, {e}") from e
    by_position = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    end = 0
    for name, info in by_position:
        wanted = end, end + info.dtype.itemsize * math.prod(info.shape)
        if (info.begin, info.end) != wanted or min(info.shape, default=0) < 0:
            raise ValueError(
                f"the header gives {name} bytes {[info.begin, info.end]}, its shape"
                f" {list(info.shape)} and position require {list(wanted)}"
            )
        end = info.end
    if end != data_bytes:
        raise ValueError(f"truncated: the header lists {end} bytes, the file has {data_bytes}")
    return tensors, metadata


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parse a JSON object; refuse duplicate keys, of which readers take the first or the last.

    Args:
      data: the JSON.
      source: what it is, for messages.

    Raises:
      ValueError: it is not such an object; the message begins with the source.
    """
    try:
        parse_json(data, source)  # stricter than Python's json
        values = json.loads(data, object_pairs_hook=_reject_duplicates)
    except UserError as e:
        raise ValueError(str(e).removesuffix(".")) from e
    except RecursionError as e:
        raise ValueError(f"{source} is nested too deeply") from e
    if not isinstance(values, dict):
        raise ValueError(f"{source} is not a JSON object")
    return values


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        ((twin, _),) = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twin)} occurs twice")
    return result


def _info(name: str, entry: Any) -> TensorInfo:
    """Return one entry of a header, after checking its types."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"a tensor's name is {shown(name)}, of {len(name)} characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} should have a dtype, a shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or len(numbers) > MAX_AXES:
            raise ValueError(f"{name} has {shown(numbers)} instead of a list of a few numbers")
        if any(type(n) is not int or not -(1 << 63) <= n < 1 << 63 for n in numbers):
            raise ValueError(
                f"shape {shown(shape)} and offsets {shown(offsets)} are not all whole numbers"
            )
    if len(offsets) != 2:
        raise ValueError(f"{name} has {len(offsets)} data_offsets")
    if not isinstance(dtype, str):
        raise ValueError(f"the dtype of {name} is {shown(dtype)}")
    if dtype not in DTYPES:
        raise UnreadableDtypeError(f"{name} is stored as {shown(dtype)[1:-1]}")
    return TensorInfo(DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


class SafetensorsFile:
    """An open .safetensors file: names, shapes and dtypes are known at once, numbers are read on
         request.

    The file stays open until the object is garbage-collected. Not thread-safe.
    """

    def __init__(self, path: epath.PathLike):
        """Read and check the header.

        Args:
          path: the file.

        Raises:
          UserError: the file is missing, unreadable, truncated, not a safetensors file, or has
            numbers of an unsupported dtype.
        """
        self.path = epath.Path(path)
        try:
            text, self._start, size = self._open()
        except OSError as e:
            raise UserError(
                f"{self.path} cannot be read ({reason(e)}); check its permissions and its disk."
            ) from e
        try:
            self._tensors, self.metadata = parse_header(text, size - self._start)
        except UnreadableDtypeError as e:
            raise UserError(
                f"{self.path}: {e}, which cannot be read; give the weights in {READABLE}."
            ) from e
        except ValueError as e:
            raise UserError(f"{self.path} is damaged ({e}); download it or make it again.") from e
        self.shapes = {name: info.shape for name, info in self._tensors.items()}
        self.dtypes = {name: info.dtype for name, info in self._tensors.items()}

    def _open(self) -> tuple[bytes, int, int]:
        """Open the file; return the header, where the numbers begin, and the file's size in
        bytes.
        """
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; give the path of a .safetensors file.")
        if not is_file(self.path):  # opening a pipe would block
            what = "is not a file" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {what}; give the path of a .safetensors file.")
        size = file_size(self.path)
        self._file = self.path.open("rb")
        weakref.finalize(self, self._file.close)
        start = self._file.read(SIGNATURE_BYTES)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            if (found := identify_file(start)) is not None:
                raise UserError(f"{self.path} is {found[0]}, not a safetensors file; {found[1]}.")
            raise UserError(
                f"{self.path} is truncated or not a safetensors file; download it again, or give"
                " another file."
            )
        rest = self._file.read(max(length - len(start) + 8, 0))
        return (start + rest)[8 : 8 + length], 8 + length, size

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows, in the file's dtype; only their bytes are read.

        Args:
          name: of the tensor.
          rows: indices along its first axis, strictly increasing; None: all.

        Raises:
          UserError: a number is not finite, the file has become shorter since it was opened, or
            reading fails.
        """
        array = self._array(name, rows)
        check_finite(array, name, self.path)
        return array

    def _array(self, name: str, rows: RowIndices) -> np.ndarray:
        info = self._tensors[name]
        if rows is None:
            data = self._bytes(name, info.begin, info.end)
            return np.frombuffer(data, info.dtype).reshape(info.shape)
        width = (info.end - info.begin) // info.shape[0]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        data = b"".join(
            self._bytes(
                name, info.begin + width * int(run[0]), info.begin + width * int(run[-1] + 1)
            )
            for run in runs
        )
        return np.frombuffer(data, info.dtype).reshape(len(rows), *info.shape[1:])

    def _bytes(self, name: str, begin: int, end: int) -> bytes | memoryview:
        """Read bytes `begin` to `end`, counted from the end of the header."""
        begin, end = self._start + begin, self._start + end
        data: bytes | memoryview
        try:
            if is_remote(self.path):  # read-ahead and seeks would cost requests
                data = read_range(self.path, begin, end)
            else:
                self._file.seek(begin)
                buffer = np.empty(end - begin, np.uint8)  # in huge pages, unlike bytes objects
                data = buffer[: self._file.readinto(buffer)].data
        except OSError as e:
            raise UserError(
                f"{self.path} could not be read at {name} ({reason(e)}); check its disk."
            ) from e
        if len(data) != end - begin:
            raise UserError(
                f"{self.path} ended while reading {name}: it has become shorter since it was"
                " opened; wait until it is complete, and start again."
            )
        return data


def write_safetensors(
    path: epath.PathLike,
    tensors: Tensors,
    names: Iterable[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file tensor by tensor; it gets its name only when it is complete.

    Args:
      path: the file to write or replace.
      tensors: reader of what to write; another thread reads one tensor at a time.
      names: of the tensors to write; None: all.
      metadata: strings for the header; None: those of the reader.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    shapes, dtypes = tensors.shapes, tensors.dtypes
    order = sorted(names or shapes, key=lambda name: (-RANK[np.dtype(dtypes[name])], name))
    metadata = tensors.metadata if metadata is None else metadata
    header: dict = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + nbytes(tensors, name)
        header[name] = {
            "dtype": CODES[np.dtype(dtypes[name])],
            "shape": list(shapes[name]),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    with (
        replacing(path) as temporary,
        temporary.open("wb") as f,
        ThreadPoolExecutor(1) as pool,  # reads the next tensor while one is written
    ):
        f.write(len(text).to_bytes(8, "little") + text)
        pending = pool.submit(tensors.read, order[0]) if order else None
        for name, following in zip(order, [*order[1:], None], strict=True):
            assert pending is not None
            array = pending.result()
            pending = None if following is None else pool.submit(tensors.read, following)
            if array.shape != tuple(shapes[name]) or array.dtype != np.dtype(dtypes[name]):
                expected = f"expected {shapes[name]} {dtypes[name]}"
                raise ValueError(f"{name}: {array.shape} {array.dtype}, {expected}")
            # bytes without a copy; Python's buffer protocol does not know every dtype
            f.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
