"""Shards: ArrayRecord files of records that share a latent size.

ArrayRecord opens local paths: on an object store shards are put as whole files (files.py), and read
from a copy on the local disk (local_copy.py).
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

# Training reads single records at random, hence groups of one; bfloat16 does not compress.
WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0"
COPY_OF = ".of"  # beside the copy of a shard, what it is a copy of; see local_copy.py

_SYSTEM_CALL = re.compile(r"\w+\(\) (failed: [^;]+)")  # in ArrayRecord's messages

_SIDE = msgspec.Meta(ge=1, le=10_000)


@dataclasses.dataclass
class ShardInfo:
    """What the manifest knows about a shard.

    Attributes:
      file: its name in the data set's folder.
      latent_size: (h, w) of all its latents.
      records: how many there are.
      bytes: size of the file.
      longest_text: tokens of the longest text in it.
      source: number of the list of edits that they are from.
      negatives: how many of the records have a negative embedding.
      digest: of the records' bytes, in order; "" in manifests of before version 3.
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
    """Writes records into one shard per latent size, opened as needed; see `writing_shards`."""

    def __init__(self, folder: epath.Path, prefix: str, files: contextlib.ExitStack):
        self._folder = folder
        self._prefix = prefix
        self._files = files
        self._open: dict[tuple[int, int], _OpenShard] = {}

    def write(self, record: EditRecord) -> None:
        """Appends a record to the shard of its latent size.

        Raises:
          ValueError: the record does not follow the schema.
        """
        data = encode_record(record)
        h, w, _ = record.source.shape
        if (h, w) not in self._open:
            file = f"{self._prefix}-{h:03d}x{w:03d}.array_record"
            temporary = self._files.enter_context(replacing(self._folder / file))
            self._open[h, w] = _OpenShard(temporary, ShardInfo(file, (h, w)))
        self._open[h, w].write(record, data)

    def close(self) -> list[ShardInfo]:
        """Brings everything to disk, so that only the renaming is left to do; may be repeated."""
        return [shard.close() for shard in self._open.values()]

    def abandon(self) -> None:
        """Lets go of the files, which are about to be removed."""
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
        _as_os_error(self._writer.write, data)
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)
        info = self._info
        info.records += 1
        info.longest_text = max(info.longest_text, record.longest_text)
        info.negatives += record.negative_text is not None

    def close(self) -> ShardInfo:
        if self._writer.is_open():
            _as_os_error(self._writer.close)
            self._info.bytes = file_size(self._path)
            self._info.digest = self._digest.hexdigest()[:32]
        return self._info


def _as_os_error(function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except RuntimeError as e:  # ArrayRecord's way to report a full disk
        raise OSError(str(e)) from e


@contextlib.contextmanager
def writing_shards(folder: epath.PathLike, prefix: str) -> Iterator[ShardWriter]:
    """A place to write records to; the shards get their names only if the block succeeds.

    Args:
      folder: of the data set, local or mounted.
      prefix: of the shards' names.

    Yields:
      The writer.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    with contextlib.ExitStack() as files:
        writer = ShardWriter(epath.Path(folder), prefix, files)
        try:
            yield writer
            writer.close()  # all of them, before the first is renamed
        except BaseException:
            writer.abandon()
            raise


class ShardReader:
    """Reads and checks the records of a shard; may be shared by threads."""

    def __init__(self, folder: epath.PathLike, info: ShardInfo):
        """Opens the file.

        Args:
          folder: of the data set, on a local or mounted disk.
          info: what the manifest says of the shard.

        Raises:
          OSError: the system cannot open it now: too many open files, no permission, ...
          UserError: missing, truncated, or not what the manifest says.
        """
        self._path = epath.Path(folder) / info.file
        self._info = info
        check_size(self._path, info)
        self._reader = _open(self._path)
        count = self._reader.num_records() if self._reader.ok() else 0
        if count != info.records:
            raise UserError(
                f"{self._path} has {count} readable records, the manifest says {info.records};"
                f" {_way_on(self._path)}."
            )

    def __len__(self) -> int:
        return self._info.records

    def __getitem__(self, index: int) -> EditRecord:
        """A record.

        Args:
          index: 0 to len - 1.

        Raises:
          DamagedRecordError: this record cannot be used.
          UserError: it was written by a newer version, or the system could not read it.
        """
        where = f"{self._path}, record {index},"
        way_on = _way_on(self._path)
        try:
            (data,) = self._reader.read([index])
        except RuntimeError as e:
            if failed := _SYSTEM_CALL.search(str(e)):  # the disk or the network, not the file
                raise unreadable(self._path, OSError(failed[1])) from e
            raise DamagedRecordError(where, e, way_on) from e
        record = decode_record(data, where, way_on)
        if problem := self._contradiction(record):
            raise DamagedRecordError(where, problem, way_on)
        return record

    def _contradiction(self, record: EditRecord) -> str | None:
        """What of a record is not as the manifest says, or None."""
        info, negative = self._info, record.negative_text is not None
        if record.source.shape[:2] != tuple(info.latent_size):
            return f"latents of {record.source.shape[:2]}"
        if record.longest_text > info.longest_text:
            return f"a text of {record.longest_text} tokens, the manifest says {info.longest_text}"
        if (negative and not info.negatives) or (not negative and info.negatives == info.records):
            return f"the manifest says that {info.negatives} records have a negative embedding"
        return None


def _open(path: epath.Path) -> array_record.ArrayRecordReader:
    """A reader; one that is not ok is of a file that can be opened and holds no records.

    Raises:
      OSError: the file cannot be opened, of which ArrayRecord does not tell the reason.
    """
    for _ in range(3):  # other threads may take the last open file in between
        with open(path, "rb"):
            pass
        reader = array_record.ArrayRecordReader(str(path), READER_OPTIONS)
        if reader.ok():
            break
    return reader


class DamagedShardError(UserError):
    """A shard that is missing or has another size."""


def check_size(path: epath.Path, info: ShardInfo) -> None:
    """Raises DamagedShardError if a shard is not there in full.

    Raises:
      UserError: the system does not tell.
    """
    try:
        size = file_size(path)
    except FileNotFoundError as e:
        raise DamagedShardError(f"{path} is missing; run launch.precompute again.") from e
    except OSError as e:
        raise unreadable(path, e) from e
    if size != info.bytes:
        raise DamagedShardError(
            f"{path} is damaged: it has {size} bytes, the manifest says {info.bytes};"
            f" {_way_on(path)}."
        )


def unreadable(path: epath.PathLike, e: OSError) -> UserError:
    """What to say of a file that the system could not read, whatever is in it."""
    advice = "see that it can be read, and start again"
    if e.errno in (errno.EMFILE, errno.ENFILE):
        advice = "allow more open files (ulimit -n) and start again"
    return UserError(f"{path} could not be read ({reason(e)}); nothing was changed, {advice}.")


def _way_on(path: epath.Path) -> str:
    """What to do about a damaged shard."""
    again = "delete it and run launch.precompute again"
    if path.with_name(path.name + COPY_OF).exists():
        return f"delete this copy, which is then copied again; if that one is damaged, too, {again}"
    return again
