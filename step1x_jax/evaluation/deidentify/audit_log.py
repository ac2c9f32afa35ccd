"""A log that only grows, each entry with the hash of the one before it.

A line is a JSON object; its "previous" is the SHA-256 of the line before, of the first one zeros.
Whoever changes, removes or inserts an entry has to change all after it, and then the last hash is
another one: it is noted with what was exported.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError
from step1x_jax.files import check_local, exclusive, reason
from step1x_jax.json_files import parse_json

FIRST = "0" * 64
LARGEST = 1 << 30  # bytes of a log


def verify_log(path: epath.PathLike) -> tuple[str, int]:
    """Follow the hashes from the first entry to the last.

    Args:
      path: of the log; where there is none, it is empty.

    Returns:
      Hash of the last entry (FIRST if there is none), and how many there are.

    Raises:
      UserError: an entry was changed, or the log was cut off.
    """
    if not epath.Path(path).exists():
        return FIRST, 0
    data = read_input_file(path, "an audit log", LARGEST)
    head, count = FIRST, 0
    lines = data.split(b"\n")
    if lines.pop():
        raise _broken(path, len(lines) + 1)
    for line in lines:
        count += 1
        entry = parse_json(line, f"{path}, line {count}")
        if not isinstance(entry, dict) or entry.get("previous") != head:
            raise _broken(path, count)
        head = _hash(line)
    return head, count


def append_entries(path: epath.PathLike, entries: Sequence[dict[str, Any]]) -> str:
    """Add entries, all of them or none, after the log was verified.

    Args:
      path: of the log, on a disk; a missing one is begun.
      entries: values of JSON without "previous".

    Returns:
      Hash of the last entry.

    Raises:
      UserError: the log is broken, cannot be written, or another process writes to it.
    """
    check_local(path)
    path = epath.Path(path)
    with exclusive(
        path.with_name(f"{path.name}.lock"), f"another process writes to {path}; wait for its end."
    ):
        head, _ = verify_log(path)
        lines = []
        for entry in entries:
            line = json.dumps({"previous": head, **entry}, ensure_ascii=False, allow_nan=False)
            lines.append(line.encode() + b"\n")
            head = _hash(line.encode())
        try:
            _append(path, b"".join(lines))
        except OSError as e:
            raise UserError(
                f"{path} could not be written ({reason(e)}); free space or choose another place."
            ) from e
    return head


def _append(path: epath.Path, data: bytes) -> None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        before = os.fstat(log).st_size
        try:
            if os.write(log, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(log)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(log, before)  # half an entry would break the log
            raise
    finally:
        os.close(log)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _broken(path: epath.PathLike, line: int) -> UserError:
    return UserError(
        f"{path} was changed or cut off at line {line}; keep it as it is, and begin another one"
        " (--audit)."
    )
