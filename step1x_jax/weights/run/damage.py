"""Which failures to read a checkpoint are damage, and which are not; why writing one fails.

Damage is in the files and permanent: a wrong checksum or fingerprint, a missing file, invalid
bytes. Missing permissions, full memory, a temporary failure of disk or network, and a lost process
are not damage: a checkpoint is never set aside for these.
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

# System errors that are caused by missing files or files of another type.
DAMAGE_ERRNOS = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP
)  # fmt: skip
# tensorstore's statuses that do not depend on what is stored.
ENVIRONMENT_STATUSES = (
    "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE",
    "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED",
)  # fmt: skip
CLIENT_PACKAGES = ("aiohttp", "gcsfs", "google", "requests", "urllib3")  # of object stores' clients


class DamagedError(Exception):
    """A checkpoint is damaged."""


@contextlib.contextmanager
def detect_damage(path: epath.Path, what: str) -> Iterator[None]:
    """A context for reading from a checkpoint, with the same outcome on all processes.

    Args:
      path: of the checkpoint.
      what: the message if reading fails.

    Raises:
      DamagedError: reading failed, here or on another process, because of what is stored.
      UserError: reading failed for another reason.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as e:  # Orbax, tensorstore and JSON raise different types
        error = e
    other = None if error is None else _environment_reason(error, path)
    if jax.process_count() > 1:
        failures = np.array([error is not None, other is not None])
        failed, otherwise = np.any(multihost_utils.process_allgather(failures), axis=0)
        if failed and error is None:
            error = RuntimeError("on another process")
        if otherwise and other is None:
            other = "on another process"
    if other is not None:
        raise UserError(
            f"{path} cannot be read ({other}); check permissions, disk, network and memory, and"
            " run the command again; the checkpoint was not changed."
        ) from error
    if error is not None:
        first = list(_chain(error))[-1]  # the cause; Orbax wraps it in long messages
        raise DamagedError(f"{what}: {first!r}".split("\n")[0][:200]) from error


def _environment_reason(error: BaseException, path: epath.Path) -> str | None:
    """Return why reading failed, if the cause is not in the files."""
    for one in _chain(error):
        if isinstance(one, MemoryError):
            return "out of memory"
        missing = isinstance(one, FileNotFoundError)
        if isinstance(one, OSError) and not missing and one.errno not in DAMAGE_ERRNOS:
            return reason(one)
        text = str(one)
        if code := re.search(r"os_error_code='(\d+)'", text):
            if int(code[1]) not in DAMAGE_ERRNOS:
                return failure_reason(text)
        elif isinstance(one, ValueError) and text.startswith(ENVIRONMENT_STATUSES):
            return failure_reason(text)
        if isinstance(one, jax.errors.JaxRuntimeError):
            return failure_reason(text)
        if (
            type(one).__module__.split(".")[0] in CLIENT_PACKAGES
            or "can't start new thread" in text
        ):
            return f"{type(one).__name__}: {failure_reason(text)}"
    return None if is_remote(path) else _unreadable(path)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that caused it."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop(0)
        if one is not None and not any(one is other for other in seen):
            seen.append(one)
            todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    yield from seen


def failure_reason(text: str) -> str:
    """Return the system's reason in one of tensorstore's messages, on one line."""
    message = re.split(r" \[(?=[a-z])", text)[0]  # codes and source locations follow
    return " ".join(message.rsplit(": ", 1)[-1].split())[:200]


def write_failure_reason(e: OSError | ValueError) -> str | None:
    """Return why writing failed.

    Args:
      e: an OSError, or tensorstore's ValueError, which contains the system's reason.

    Returns:
      The reason; None: it is another error.
    """
    if isinstance(e, OSError):
        return e.strerror or failure_reason(str(e))
    from_store = "os_error_code" in str(e) or str(e).startswith(ENVIRONMENT_STATUSES)
    return failure_reason(str(e)) if from_store else None


def _unreadable(path: epath.Path) -> str | None:
    """Return why a file in a local folder cannot be opened; Orbax takes some of these for missing
    files.
    """
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
        return None if e.errno in DAMAGE_ERRNOS else f"{reason(e)}: {e.filename or path}"
    return None
