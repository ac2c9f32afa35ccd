"""Part files: rows as parquet of at most PART_BYTES, written beside their place.

Only the driver gives them their names (workdir.py): what a worker writes whose driver was killed
stays a temporary file, and is removed by the next run. A name holds the digest of the file, so that
no file ever changes, and equal parts are equal bytes.
"""

import contextlib
import dataclasses
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from step1x_jax.bounds import Count
from step1x_jax.curation.engine.columns import (
    Columns,
    Digest,
    arrow_type,
    decode,
    stored_size,
)
from step1x_jax.curation.engine.rows import (
    DETAIL,
    ID,
    OK,
    PARENT,
    REASON,
    REJECTED,
    STAGE,
    STATUS,
    Row,
    StopError,
)
from step1x_jax.data.parquet import convert_errors, import_pyarrow
from step1x_jax.errors import UserError
from step1x_jax.files import reason

PART_BYTES = 128 << 20
INPUT = "input"  # digest of what a stage read of a row; "" for rows that it was not given
STATE = (STATUS, REASON, DETAIL, STAGE)
FIXED: Columns = {ID: str, PARENT: str, INPUT: str, **dict.fromkeys(STATE, str)}
TOO_LARGE = "too_large"
_ROOM = 1 << 20  # bytes of a file that are no values: its footer, the heads of pages


@dataclasses.dataclass(frozen=True)
class PartFile:
    """A part that is there, or about to be.

    Attributes:
      key: of the part; parts that were split have a longer one, KEY-000.
      file: its name in the stage's folder.
      rows: how many.
      bytes: its size.
      sha256: of the file.
      columns: digest of each of the stage's columns, with the rows' ids.
      state: digest of which rows go on and why the others do not.
    """

    key: str
    file: str
    rows: Count
    bytes: Count
    sha256: str
    columns: Mapping[str, str]
    state: str


@dataclasses.dataclass(frozen=True)
class Written:
    """A part file under a temporary name."""

    temporary: str
    part: PartFile


def write_parts(
    folder: str, key: str, rows: Sequence[Row], columns: Columns, limit: int = PART_BYTES
) -> list[Written]:
    """Write rows under temporary names, each file complete on the disk.

    Args:
      folder: of the stage; exists.
      key: of the part; several files have the keys KEY-000, KEY-001, ...
      rows: as stored, each `fitting`, with the columns in FIXED and all of `columns`.
      columns: of the stage.
      limit: bytes of a file.

    Returns:
      At least one; if anything fails all of them are removed.

    Raises:
      StopError: the disk is full, or cannot be written to.
    """
    tables = list(_tables(rows, columns, limit))
    keys = [key] if len(tables) == 1 else [f"{key}-{i:03d}" for i in range(len(tables))]
    written: list[Written] = []
    try:
        for one, (group, data) in zip(keys, tables, strict=True):
            written.append(_write(folder, one, group, columns, data))
    except BaseException:
        remove([one.temporary for one in written])
        raise
    return written


def fitting(row: Row, columns: Columns, stage: str, limit: int = PART_BYTES) -> Row:
    """A row that a file can hold: itself, or rejected and without the stage's columns."""
    size = stored_size(row.values())
    if size <= limit - _ROOM:
        return row
    row = row | dict.fromkeys(columns)
    if row[STATUS] == OK:
        detail = f"{size} bytes, more than a part can have"
        row |= {STATUS: REJECTED, REASON: TOO_LARGE, DETAIL: detail, STAGE: stage}
    return row


def _tables(rows: Sequence[Row], columns: Columns, limit: int) -> Iterator[tuple[Any, bytes]]:
    """Rows in groups that fit into a file each, with the file's bytes."""
    group: list[Row] = []
    size = 0
    for row in rows:
        more = stored_size(row.values())
        if group and size + more > limit - _ROOM:
            yield group, _parquet(group, columns)
            group, size = [], 0
        group.append(row)
        size += more
    yield group, _parquet(group, columns)


def _parquet(rows: Sequence[Row], columns: Columns) -> bytes:
    arrow = import_pyarrow()
    kinds = {**FIXED, **columns}
    schema = arrow.schema([(name, arrow_type(kind)) for name, kind in kinds.items()])
    values = {name: [row[name] for row in rows] for name in kinds}
    texts = [name for name, kind in kinds.items() if kind in (str, dict)]
    sink = arrow.BufferOutputStream()
    arrow.parquet.write_table(
        arrow.table(values, schema),
        sink,
        row_group_size=max(len(rows), 1),
        use_dictionary=texts,
        compression={name: "zstd" if name in texts else "none" for name in _leaves(kinds)},
        write_statistics=False,  # of pictures they would be pictures
    )
    return sink.getvalue().to_pybytes()


def _leaves(kinds: Columns) -> list[str]:
    """Columns as parquet numbers them: those of lists have a name for their elements."""
    lists = (list[str], list[bytes])
    return [f"{name}.list.element" if kind in lists else name for name, kind in kinds.items()]


def _write(folder: str, key: str, rows: Sequence[Row], columns: Columns, data: bytes) -> Written:
    digests = {name: Digest() for name in columns}
    state = Digest()
    for row in rows:
        for name, digest in digests.items():
            digest.add(row[ID])
            digest.add(row[name])
        state.add([row[ID], *(row[name] for name in STATE)])
    sha256 = hashlib.sha256(data).hexdigest()
    part = PartFile(
        key=key,
        file=f"part-{key}-{sha256[:12]}.parquet",
        rows=len(rows),
        bytes=len(data),
        sha256=sha256,
        columns={name: digest.hex() for name, digest in digests.items()},
        state=state.hex(),
    )
    return Written(write_synced(folder, part.file, data), part)


def write_synced(folder: str, name: str, data: bytes) -> str:
    """Write a file beside its place, and wait until the disk has it.

    Args:
      folder: where it is to be.
      name: it is to have.
      data: its content.

    Returns:
      Its temporary path.

    Raises:
      StopError: the disk is full, or cannot be written to; nothing is left.
    """
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as e:
        remove([temporary])
        raise StopError(
            f"{os.path.join(folder, name)} could not be written ({reason(e)}); free space, then run"
            " this again: what is done stays."
        ) from e
    except BaseException:
        remove([temporary])
        raise
    return temporary


def remove(paths: Sequence[str]) -> None:
    """Remove files, those that are there."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def read_columns(path: str, columns: Columns) -> dict[str, list[Any]]:
    """Some columns of a part, as stored.

    Args:
      path: of the file.
      columns: which, of FIXED or the stage's.

    Returns:
      By name the values of all rows.

    Raises:
      StopError: it cannot be read, or is damaged.
      UserError: pyarrow is missing.
    """
    import_pyarrow()  # what is missing is not damaged
    try:
        with convert_errors(path):
            table = import_pyarrow().parquet.read_table(
                path, columns=list(columns), partitioning=None
            )
            return {name: table.column(name).to_pylist() for name in columns}
    except UserError as e:
        raise StopError(f"{e} Or remove it, then run this again: it is made anew.") from e


def read_rows(path: str, columns: Columns) -> list[Row]:
    """Rows of a part with some of its columns, as stages have them."""
    values = read_columns(path, columns)
    decoded = [[decode(x, columns[name]) for x in values[name]] for name in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*decoded, strict=True)]
