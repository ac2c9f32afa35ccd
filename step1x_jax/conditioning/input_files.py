"""The bytes of a file that a user names: only of what is a file, and not of more than fits."""

import errno
import os
import stat

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import STORES, is_remote


def read_input_file(path: epath.PathLike, what: str, limit: int) -> bytes:
    """Read all bytes of a file, on a disk or an object store.

    A pipe or a device is refused before it is opened: opening it may wait forever, and it may have
    no end.

    Args:
      path: of the file; links are followed.
      what: it should be, for messages: "a picture".
      limit: bytes that it may have.

    Raises:
      UserError: it is no such file, cannot be read, or has more bytes.
    """
    text = os.fspath(path)
    check_protocol(text, what)
    try:
        if not is_remote(text):
            _check_regular(text, what, limit)
        with epath.Path(path).open("rb") as f:
            data = f.read(limit + 1)
    except (OSError, ValueError) as e:  # ValueError: not a possible path
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{text:.300} cannot be read ({reason}); give the path of {what}.") from e
    if len(data) > limit:
        raise _too_large(text, what, limit)
    return data


def check_protocol(path: str, what: str) -> None:
    """Raise UserError for an address, of the web or with file://, where a path is wanted."""
    protocol, there, _ = path.partition("://")
    if there and protocol not in STORES:
        raise UserError(
            f"{path:.300} is an address ({protocol:.20}://), not the path of {what}; download"
            " it and give the path of the copy."
        )


def _check_regular(path: str, what: str, limit: int) -> None:
    """Raise UserError or OSError unless the path leads to a regular file of no more bytes."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is a pipe or a device, not a file; give the path of {what}.")
    if status.st_size > limit:
        raise _too_large(path, what, limit)


def _too_large(path: str, what: str, limit: int) -> UserError:
    return UserError(
        f"{path} has more than {limit >> 20} MiB, too much for {what}; give the right file."
    )
