"""Shards: ArrayRecord files of records of one latent size.

ArrayRecord opens only local paths. On an object store shards are uploaded as whole files (files.py)
and read from a copy on the local disk (local_copy.py).
"""

import contextlib
import dataclasses
import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
from array_record.python import array_record_module as array_record
from etils import epath

from step1x_jax.bounds import Count
from step1x_jax.data.records import DamagedRecordError, EditRecord, decode_record, encode_record
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, reason, replacing

# Training reads single records at random, hence groups of one record; bfloat16 does not compress.
WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0"
COPY_NOTE_SUFFIX = ".of"  # of the note that says what a shard is a copy of (local_copy.py)

_SYSTEM_CALL = re.compile(r"\w+\(\) (failed: [^;]+)")  # in ArrayRecord's messages

_SIDE = msgspec.Meta(ge=1, le=10_000)


@dataclasses.dataclass
class ShardInfo:
    """A shard's entry in the manifest.

    Attributes:
      file: name of the file in the data set's folder.
      latent_size: (h, w) of all latents in the shard.
      records: number of records.
      bytes: size of the file.
      longest_text: number of tokens of the longest embedding.
      source: index of the list of edits that the records are from.
      negatives: number of records that have a negative embedding.
      digest: digest of the records' bytes, in order; "" in manifests before version 3.
    """

    file: str
    latent_size: tuple[Annotated[int, _SIDE], Annotated[int, _SIDE]]
    records: Count = 0
    bytes: Count = 0
    longest_text: Count = 0
    source: Count = 0
    negatives: Count = 0
    digest: str = ""


class ShardWriter:
    """Writes records to one shard per latent size, opened on demand; see `open_shard_writer`."""

    def __init__(self, folder: epath.Path, prefix: str, files: contextlib.ExitStack):
        self._folder = folder
        self._prefix = prefix
        self._files = files
        self._open: dict[tuple[int, int], _OpenShard] = {}

    def write(self, record: EditRecord) -> None:
        """Append a record to the shard of its latent size.

        Raises:
          ValueError: the record violates the schema.
        """
        data = encode_record(record)
        h, w, _ = record.source.shape
        if (h, w) not in self._open:
            file = f"{self._prefix}-{h:03d}x{w:03d}.array_record"
            temporary = self._files.enter_context(replacing(self._folder / file))
            self._open[h, w] = _OpenShard(temporary, ShardInfo(file, (h, w)))
        self._open[h, w].write(record, data)

    def close(self) -> list[ShardInfo]:
        """Flush all shards to disk, so that only renaming remains; idempotent."""
        return [shard.close() for shard in self._open.values()]

    def abandon(self) -> None:
        """Close the files, which are about to be deleted; ignores errors."""
        for shard in self._open.values():
            with contextlib.suppress(OSError):
                shard.close()


class _OpenShard:
    def __init__(self, path: epath.Path, info: ShardInfo):
        self._path = path
        self._info = info
        self._writer = array_record.ArrayRecordWriter(str(path), WRITER_OPTIONS)
        self._digest = hashlib.sha256()

    def write(self, record: EditRecord, data: bytes) -> None:
        _call_with_os_errors(self._writer.write, data)
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)
        info = self._info
        info.records += 1
        info.longest_text = max(info.longest_text, record.longest_text)
        info.negatives += record.negative_text is not None

    def close(self) -> ShardInfo:
        if self._writer.is_open():
            _call_with_os_errors(self._writer.close)
            self._info.bytes = file_size(self._path)
            self._info.digest = self._digest.hexdigest()[:32]
        return self._info


def _call_with_os_errors(function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except RuntimeError as e:  # this is how ArrayRecord reports a full disk
        raise OSError(str(e)) from e


@contextlib.contextmanager
def open_shard_writer(folder: epath.PathLike, prefix: str) -> Iterator[ShardWriter]:
    """Open a writer of shards, which get their final names only if the block succeeds.

    Args:
      folder: folder of the data set, on a disk or an object store.
      prefix: prefix of the shards' names.

    Yields:
      The writer.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    with contextlib.ExitStack() as files:
        writer = ShardWriter(epath.Path(folder), prefix, files)
        try:
            yield writer
            writer.close()  # close all shards before the first is renamed
        except BaseException:
            writer.abandon()
            raise


class ShardReader:
    """Reads and checks the records of a shard; thread-safe."""

    def __init__(self, folder: epath.PathLike, info: ShardInfo):
        """Open the file.

        Args:
          folder: folder of the data set, on a local or mounted disk.
          info: the shard's entry in the manifest.

        Raises:
          OSError: the system cannot open the file: too many open files, no permission, ...
          UserError: the file is missing, truncated, or does not match the manifest.
        """
        self._path = epath.Path(folder) / info.file
        self._info = info
        check_size(self._path, info)
        self._reader = _open(self._path)
        count = self._reader.num_records() if self._reader.ok() else 0
        if count != info.records:
            raise UserError(
                f"{self._path} has {count} readable records, the manifest says {info.records};"
                f" {_recovery_advice(self._path)}."
            )

    def __len__(self) -> int:
        return self._info.records

    def __getitem__(self, index: int) -> EditRecord:
        """Read a record.

        Args:
          index: index of the record, from 0.

        Raises:
          DamagedRecordError: the record cannot be used.
          UserError: the record was written by a newer version, or the system cannot read the file.
        """
        where = f"{self._path}, record {index},"
        advice = _recovery_advice(self._path)
        try:
            (data,) = self._reader.read([index])
        except RuntimeError as e:
            # The disk or the network failed; the file is not damaged.
            if failed := _SYSTEM_CALL.search(str(e)):
                raise unreadable_error(self._path, OSError(failed[1])) from e
            raise DamagedRecordError(where, e, advice) from e
        record = decode_record(data, where, advice)
        if problem := self._find_mismatch(record):
            raise DamagedRecordError(where, problem, advice)
        return record

    def _find_mismatch(self, record: EditRecord) -> str | None:
        """Return how a record contradicts the manifest, or None."""
        info, negative = self._info, record.negative_text is not None
        if record.source.shape[:2] != tuple(info.latent_size):
            return f"latents of {record.source.shape[:2]}"
        if record.longest_text > info.longest_text:
            return f"a text of {record.longest_text} tokens, the manifest says {info.longest_text}"
        if (negative and not info.negatives) or (not negative and info.negatives == info.records):
            return f"the manifest says that {info.negatives} records have a negative embedding"
        return None


def _open(path: epath.Path) -> array_record.ArrayRecordReader:
    """Open a reader. It is not ok() if the file can be opened but is not an ArrayRecord file.

    Raises:
      OSError: the file cannot be opened. ArrayRecord itself would not report the reason.
    """
    for _ in range(3):  # another thread may open the last allowed file in between
        with open(path, "rb"):
            pass
        reader = array_record.ArrayRecordReader(str(path), READER_OPTIONS)
        if reader.ok():
            break
    return reader


class DamagedShardError(UserError):
    """A shard that is missing or whose size differs from the manifest."""


def check_size(path: epath.Path, info: ShardInfo) -> None:
    """Check that a shard exists and has the size given in the manifest.

    Raises:
      DamagedShardError: it is missing or has another size.
      UserError: the system cannot read its size.
    """
    try:
        size = file_size(path)
    except FileNotFoundError as e:
        raise DamagedShardError(f"{path} is missing; run launch.precompute again.") from e
    except OSError as e:
        raise unreadable_error(path, e) from e
    if size != info.bytes:
        raise DamagedShardError(
            f"{path} is damaged: it has {size} bytes, the manifest says {info.bytes};"
            f" {_recovery_advice(path)}."
        )


def unreadable_error(path: epath.PathLike, e: OSError) -> UserError:
    """Return the error for a file that the system could not read."""
    advice = "make sure that it can be read, and start again"
    if e.errno in (errno.EMFILE, errno.ENFILE):
        advice = "allow more open files (ulimit -n) and start again"
    return UserError(f"{path} could not be read ({reason(e)}); nothing was changed, {advice}.")


def _recovery_advice(path: epath.Path) -> str:
    """Return what the user can do about a damaged shard."""
    again = "delete it and run launch.precompute again"
    if path.with_name(path.name + COPY_NOTE_SUFFIX).exists():
        return (
            f"delete this copy, and it is copied again; if the original is damaged as well, {again}"
        )
    return again
