"""Reading and writing .safetensors one tensor at a time, local or on object storage.

The format is a little-endian u64 (length of the header), a JSON header that gives each tensor's
dtype, shape and byte range, and the bytes. The safetensors package writes only whole dicts held in
memory; a 25 GB model wants to be streamed. Tensors are laid out in that package's order, so that a
file it wrote comes back byte for byte.
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
from step1x_jax.weights.files.not_weights import LOOKED_AT, what_it_is
from step1x_jax.weights.finite import check_finite
from step1x_jax.weights.readers import Rows, Tensors, nbytes

# In the order in which the safetensors package sorts a file's tensors, last first.
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
MAX_NAME = 500  # characters of a tensor's name; the longest of a model have a hundred
MAX_AXES = 16
READABLE = "bfloat16, float16, float32 or 8 bits (float8_e4m3fn, float8_e5m2)"


class UnreadableDtypeError(ValueError):
    """A sound header with numbers in a format that is not read."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor; its bytes are `begin` to `end` behind the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(text: bytes, data_bytes: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """A header's tensors and metadata.

    Args:
      text: the JSON of the header.
      data_bytes: how many bytes follow it.

    Raises:
      UnreadableDtypeError: a tensor is stored in a format that is not read.
      ValueError: unreadable, or its tensors do not lie one after another in those bytes.
    """
    try:
        header = parse_unique(text, "the header")
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict):
            raise ValueError("its metadata are no JSON object")
        if not all(isinstance(x, str) for pair in metadata.items() for x in pair):
            raise ValueError("its metadata are not all strings")
        tensors = {name: _info(name, entry) for name, entry in header.items()}
    except UnreadableDtypeError:
        raise
    except ValueError as e:
        raise ValueError(f"unreadable header, {e}") from e
    in_order = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    end = 0
    for name, info in in_order:
        wanted = end, end + info.dtype.itemsize * math.prod(info.shape)
        if (info.begin, info.end) != wanted or min(info.shape, default=0) < 0:
            raise ValueError(
                f"the header gives {name} bytes {[info.begin, info.end]}, its shape"
                f" {list(info.shape)} and place say {list(wanted)}"
            )
        end = info.end
    if end != data_bytes:
        raise ValueError(f"truncated: the header promises {end} bytes, {data_bytes} are there")
    return tensors, metadata


def parse_unique(data: bytes, source: str) -> dict[str, Any]:
    """A JSON object in which no name occurs twice; other readers take the first or the last.

    Raises:
      ValueError: it is none; the message begins with the source.
    """
    try:
        parse_json(data, source)  # strict, where Python's own is not
        values = json.loads(data, object_pairs_hook=_without_twins)
    except UserError as e:
        raise ValueError(str(e).removesuffix(".")) from e
    except RecursionError as e:
        raise ValueError(f"{source} is nested too deeply") from e
    if not isinstance(values, dict):
        raise ValueError(f"{source} is no JSON object")
    return values


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        ((twin, _),) = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twin)} occurs twice")
    return result


def _info(name: str, entry: Any) -> TensorInfo:
    """One entry of a header, with its types checked."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"a tensor's name is {shown(name)}, of {len(name)} characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} should have a dtype, a shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or len(numbers) > MAX_AXES:
            raise ValueError(f"{name} has {shown(numbers)} where a list of a few numbers belongs")
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
    """An open .safetensors file: names, shapes and dtypes now, tensors when asked for.

    It is opened once, and closed when the object is gone; not for several threads at a time.
    """

    def __init__(self, path: epath.PathLike):
        """Reads and checks the header.

        Args:
          path: the file.

        Raises:
          UserError: missing, unreadable, truncated, not a safetensors file, or with numbers of a
            format that is not read.
        """
        self.path = epath.Path(path)
        try:
            text, self._start, size = self._open()
        except OSError as e:
            raise UserError(
                f"{self.path} cannot be read ({reason(e)}); check its rights and its disk."
            ) from e
        try:
            self._tensors, self.metadata = parse_header(text, size - self._start)
        except UnreadableDtypeError as e:
            raise UserError(
                f"{self.path}: {e}, which cannot be read; give the weights in {READABLE}."
            ) from e
        except ValueError as e:
            raise UserError(f"{self.path} is damaged ({e}); download or make it again.") from e
        self.shapes = {name: info.shape for name, info in self._tensors.items()}
        self.dtypes = {name: info.dtype for name, info in self._tensors.items()}

    def _open(self) -> tuple[bytes, int, int]:
        """The header, where the numbers begin, and the size of the file, which stays open."""
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; give the path of a .safetensors file.")
        if not is_file(self.path):  # a pipe would be waited for
            what = "is no file" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {what}; give the path of a .safetensors file.")
        size = file_size(self.path)
        self._file = self.path.open("rb")
        weakref.finalize(self, self._file.close)
        start = self._file.read(LOOKED_AT)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            if (found := what_it_is(start)) is not None:
                raise UserError(f"{self.path} is {found[0]}, no safetensors file; {found[1]}.")
            raise UserError(
                f"{self.path} is truncated or not a safetensors file; download it again, or give"
                " another."
            )
        rest = self._file.read(max(length - len(start) + 8, 0))
        return (start + rest)[8 : 8 + length], 8 + length, size

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor in the file's dtype, or some of its rows, of which alone the bytes are read.

        Args:
          name: of the tensor.
          rows: their numbers along its first axis, strictly increasing; None means all.

        Raises:
          UserError: it has numbers that are not finite, the file has become shorter since it was
            opened, or the disk fails.
        """
        array = self._array(name, rows)
        check_finite(array, name, self.path)
        return array

    def _array(self, name: str, rows: Rows) -> np.ndarray:
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
        """Those from `begin` to `end` behind the header."""
        begin, end = self._start + begin, self._start + end
        data: bytes | memoryview
        try:
            if is_remote(self.path):  # a file read ahead and sought in costs requests
                data = read_range(self.path, begin, end)
            else:
                self._file.seek(begin)
                room = np.empty(end - begin, np.uint8)  # of large pages, as memory of bytes is not
                data = room[: self._file.readinto(room)].data
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
    """Writes a file tensor by tensor; it appears under its name only when complete.

    Args:
      path: the file to write or replace.
      tensors: what to write; read in another thread, one at a time.
      names: of those to write; None: all.
      metadata: strings for the header; None: those of the tensors.

    Raises:
      UserError: the disk is full or the folder not writable.
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
        ThreadPoolExecutor(1) as pool,  # while a tensor is written, the next one is read
    ):
        f.write(len(text).to_bytes(8, "little") + text)
        coming = pool.submit(tensors.read, order[0]) if order else None
        for name, following in zip(order, [*order[1:], None], strict=True):
            assert coming is not None
            array = coming.result()
            coming = None if following is None else pool.submit(tensors.read, following)
            if array.shape != tuple(shapes[name]) or array.dtype != np.dtype(dtypes[name]):
                promised = f"promised {shapes[name]} {dtypes[name]}"
                raise ValueError(f"{name}: {array.shape} {array.dtype}, {promised}")
            # as bytes without a copy; not every dtype is known to Python's buffers
            f.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
