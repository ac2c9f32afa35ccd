"""Which failures to read a checkpoint are damage, and which not; why writing one fails.

Damage is in the files and stays there: a wrong checksum or fingerprint, a missing file, bytes that
make no sense. Missing rights, a full memory, a disk or a network that fails for now and a process
that is gone are no damage: a checkpoint is never set aside for them.
"""

import contextlib
import errno
import re
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from step1x_jax.errors import UserError
from step1x_jax.files import is_remote, reason

# Of the system's errors those that files with wrong names or of another kind cause.
OF_FILES = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP
)  # fmt: skip
# Of tensorstore's those that are not about what is stored.
STATUSES = (
    "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE",
    "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED",
)  # fmt: skip
CLIENTS = ("aiohttp", "gcsfs", "google", "requests", "urllib3")  # of object stores


class DamagedError(Exception):
    """A checkpoint that cannot be trusted."""


@contextlib.contextmanager
def damage(path: epath.Path, what: str) -> Iterator[None]:
    """Around reading from a checkpoint: one outcome on all processes.

    Args:
      path: of the checkpoint.
      what: fails if reading fails, for the message.

    Raises:
      DamagedError: reading failed, here or on another process, because of what is stored.
      UserError: it failed for another reason.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as e:  # Orbax, tensorstore and JSON each have their own
        error = e
    other = None if error is None else _other_reason(error, path)
    if jax.process_count() > 1:
        failures = np.array([error is not None, other is not None])
        failed, otherwise = np.any(multihost_utils.process_allgather(failures), axis=0)
        if failed and error is None:
            error = RuntimeError("on another process")
        if otherwise and other is None:
            other = "on another process"
    if other is not None:
        raise UserError(
            f"{path} cannot be read ({other}); check rights, disk, network and memory, and run the"
            " command again: the checkpoint was left as it is."
        ) from error
    if error is not None:
        first = list(_chain(error))[-1]  # Orbax says it in many words
        raise DamagedError(f"{what}: {first!r}".split("\n")[0][:200]) from error


def _other_reason(error: BaseException, path: epath.Path) -> str | None:
    """Why reading failed, if the reason is not in the files."""
    for one in _chain(error):
        if isinstance(one, MemoryError):
            return "out of memory"
        missing = isinstance(one, FileNotFoundError)
        if isinstance(one, OSError) and not missing and one.errno not in OF_FILES:
            return reason(one)
        text = str(one)
        if code := re.search(r"os_error_code='(\d+)'", text):
            if int(code[1]) not in OF_FILES:
                return why_not_done(text)
        elif isinstance(one, ValueError) and text.startswith(STATUSES):
            return why_not_done(text)
        if isinstance(one, jax.errors.JaxRuntimeError):
            return why_not_done(text)
        if type(one).__module__.split(".")[0] in CLIENTS or "can't start new thread" in text:
            return f"{type(one).__name__}: {why_not_done(text)}"
    return None if is_remote(path) else _unreadable(path)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop(0)
        if one is not None and not any(one is other for other in seen):
            seen.append(one)
            todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    yield from seen


def why_not_done(text: str) -> str:
    """The system's reason in one of tensorstore's messages, on one line."""
    said = re.split(r" \[(?=[a-z])", text)[0]  # behind it are codes and places
    return " ".join(said.rsplit(": ", 1)[-1].split())[:200]


def why_not_written(e: OSError | ValueError) -> str | None:
    """Why writing failed: the system's reason, which tensorstore puts into a ValueError.

    Returns:
      The reason; None: it is another error.
    """
    if isinstance(e, OSError):
        return e.strerror or why_not_done(str(e))
    from_store = "os_error_code" in str(e) or str(e).startswith(STATUSES)
    return why_not_done(str(e)) if from_store else None


def _unreadable(path: epath.Path) -> str | None:
    """Why a file in a local folder cannot be opened: Orbax takes some of these for missing ones."""
    try:
        if not path.is_dir():
            path.exists()
            return None
        for entry in path.iterdir():
            if entry.is_dir():
                found = _unreadable(entry)
                if found:
                    return found
            elif entry.is_file():
                with entry.open("rb") as f:
                    f.read(1)
    except OSError as e:
        return None if e.errno in OF_FILES else f"{reason(e)}: {e.filename or path}"
    return None
