"""replies.jsonl: every reply of a model, so that nothing is paid twice.

A line for each, only ever appended. What a killed process wrote of its last line is cut off when
the file is opened again.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any

from etils import epath

from step1x_jax.asking.exchange import Ask, Reply
from step1x_jax.errors import UserError
from step1x_jax.files import check_local, exclusive, is_file, reason
from step1x_jax.json_files import build, parse_json

NAME = "replies.jsonl"
LONGEST_LINE = 16 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class _Line:
    """A reply in the file.

    Attributes:
      key: of the question, see `cache_key`.
      id: of the question, for people.
      asked: the model's id in the request.
      reply: itself.
    """

    key: str
    id: str
    asked: str
    reply: Reply


def cache_key(ask: Ask, parameters: Mapping[str, Any]) -> str:
    """The question's and the model's fingerprint: equal exactly where a reply may be used again.

    Args:
      ask: texts, pictures, repeat, and the schema if it is sent; not the id.
      parameters: of who is asked, see `Respondent`.
    """
    values = {
        "parameters": dict(parameters),
        "system": ask.system,
        "parts": [
            ["text", part] if isinstance(part, str) else ["picture", part.fingerprint]
            for part in ask.parts
        ],
        "schema": ask.schema if parameters.get("structured") else None,
        "repeat": ask.repeat,
    }
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class ReplyCache:
    """The replies of one file, and appending to it; `open_cache` makes it."""

    def __init__(
        self,
        descriptor: int | None,
        lines: list[_Line],
        path: epath.Path,
        otherwise: str = "",
    ):
        self.path = path
        self._otherwise = otherwise
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._replies: dict[str, tuple[Reply, ...]] = {}
        self._served: dict[str, str] = {}  # model asked for -> the server's name of it
        for line in lines:
            self._take(line)

    def _take(self, line: _Line) -> None:
        self._replies[line.key] = (*self._replies.get(line.key, ()), line.reply)
        if line.reply.model:  # a filter that refuses a question does not say whose
            self._served[line.asked] = line.reply.model

    def replies(self, key: str) -> tuple[Reply, ...]:
        """All to one question, in the order in which they came."""
        with self._lock:
            return self._replies.get(key, ())

    def every(self) -> list[Reply]:
        """All replies to all questions."""
        with self._lock:
            return [reply for replies in self._replies.values() for reply in replies]

    def append(self, key: str, id: str, asked: str, reply: Reply) -> Reply:
        """Keep a reply.

        Args:
          key: of the question.
          id: of the question.
          asked: the model's id in the request.
          reply: to it.

        Returns:
          The reply as it is kept, with its time.

        Raises:
          UserError: another model has replied than before, or the disk is full.
        """
        reply = dataclasses.replace(reply, time=_now())
        line = _Line(key, id, asked, reply)
        text = json.dumps(dataclasses.asdict(line), ensure_ascii=False, allow_nan=False)
        with self._lock:
            if self._descriptor is None:  # the run has ended without waiting for this reply
                return reply
            before = self._served.get(asked, reply.model)
            if reply.model and reply.model != before:
                raise UserError(
                    f"the server replied as {reply.model!r}, and as {before!r} before; replies of"
                    f" two models are not mixed: remove {self.path}, or {self._otherwise}."
                )
            data = (text + "\n").encode(errors="replace")
            try:
                written = os.write(self._descriptor, data)
            except OSError as e:
                raise UserError(
                    f"{self.path} cannot be written ({reason(e)}); free space, then run this again."
                ) from e
            if written < len(data):
                raise UserError(f"{self.path} cannot be written; free space, then run this again.")
            self._take(line)
        return reply

    def close(self) -> None:
        """Take no more replies."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def open_cache(folder: epath.PathLike, otherwise: str) -> Iterator[ReplyCache]:
    """The replies in a folder, for this process alone.

    Args:
      folder: on a disk: an object store has no appending; made if need be.
      otherwise: how the user can have another folder, for errors: "give another --workdir".

    Yields:
      The cache.

    Raises:
      UserError: another process has it open, or the file cannot be read or is damaged.
    """
    check_local(folder)
    path = epath.Path(folder) / NAME
    message = f"another process asks in {folder}; wait for it, or {otherwise}."
    with exclusive(path.parent / f"{NAME}.lock", message):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as e:
            raise UserError(f"{path} cannot be opened ({reason(e)}); check its rights.") from e
        cache: ReplyCache | None = None
        try:
            with os.fdopen(os.dup(descriptor), "rb") as f:
                lines, end = _read_lines(f, path)
            os.ftruncate(descriptor, end)
            cache = ReplyCache(descriptor, lines, path, otherwise)
            yield cache
        finally:
            cache.close() if cache else os.close(descriptor)


def look_into_cache(folder: epath.PathLike) -> ReplyCache:
    """The replies in a folder, to be read alone; nothing is written, held, or cut off.

    Raises:
      UserError: the file cannot be read or is damaged.
    """
    path = epath.Path(folder) / NAME
    if not is_file(path):
        return ReplyCache(None, [], path)
    try:
        with path.open("rb") as f:
            lines, _ = _read_lines(f, path)
    except OSError as e:
        raise UserError(f"{path} cannot be opened ({reason(e)}); check its rights.") from e
    return ReplyCache(None, lines, path)


def _read_lines(f: IO[bytes], path: epath.Path) -> tuple[list[_Line], int]:
    """All whole lines, and the byte where the last of them ends."""
    lines: list[_Line] = []
    end = 0
    while (data := f.readline(LONGEST_LINE)).endswith(b"\n"):
        source = f"{path}, line {len(lines) + 1}"
        lines.append(build(_Line, parse_json(data, source), source))
        end += len(data)
    if len(data) == LONGEST_LINE:
        raise UserError(f"{path}, line {len(lines) + 1} is too long; remove it.")
    return lines, end
