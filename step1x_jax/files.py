"""Writing files so that a name means a complete file, here or on an object store.

Here a file is written beside its place and renamed. An object store (gs://, s3://, ...) has neither
rename nor append, and lists late what was written; but an object is there as a whole once it has
been put, and is found by its exact name. So a file for it is made in a local temporary folder
(TMPDIR) and put when it is complete; what consists of several objects is complete with the one that
is put last, which readers ask for by name.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator

import fsspec.config
from etils import epath
from etils.epath import backend

from step1x_jax.errors import UserError

MIB = 1 << 20
BETWEEN_PUTS = 30.0  # seconds, of a growing file

# Errors of the place itself, which free space does not mend.
NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)

# Other processes and other libraries write there, too: what was listed before says nothing now.
for _protocol in ("gs", "s3", "abfs"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is on an object store."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a local or neighbouring temporary path; its file takes its place if the block succeeds.

    Parent folders are made. On any error the temporary file is removed and what stood under the
    name before stays.

    Args:
      path: the file to write.

    Yields:
      The temporary path to write to: beside `path`, or local if that is on an object store.

    Raises:
      UserError: the disk is full, or the place cannot be written to.
    """
    path = epath.Path(path)
    with contextlib.ExitStack() as at_end:
        try:
            if is_remote(path):
                folder = at_end.enter_context(tempfile.TemporaryDirectory(prefix="step1x_jax-"))
                temporary = epath.Path(folder) / path.name
            else:
                # Random: machines may write to one folder, with equal process numbers.
                temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                at_end.callback(temporary.unlink, missing_ok=True)
            yield temporary
            if is_remote(path):
                put(temporary, path)
            else:
                temporary.replace(path)
        except OSError as e:
            raise _not_written(path, e) from e


def put(local: epath.PathLike, path: epath.PathLike) -> None:
    """Copies a file to an object store, where it appears as a whole or not at all.

    Raises:
      OSError: it is not there; what stood under the name before stays.
    """
    with _os_errors():
        # put_file, for the files of fsspec end their object on any exception, however short it is
        backend.fsspec_backend.fs(path).put_file(os.fspath(local), os.fspath(path))


def fetch(path: epath.PathLike, local: epath.PathLike) -> None:
    """Copies an object to a local file.

    Raises:
      OSError: it could not be read or written.
    """
    with _os_errors():
        backend.fsspec_backend.fs(path).get_file(os.fspath(path), os.fspath(local))


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Makes OSErrors of what the libraries of the stores raise, each its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as e:
        raise OSError(f"{type(e).__name__}: {e}") from e


def identity(path: epath.PathLike) -> str:
    """Changes when the object under a name is replaced, even by one of the same size."""
    info = backend.fsspec_backend.fs(path).info(os.fspath(path))
    names = ("size", "generation", "etag", "ETag", "md5Hash", "crc32c")
    return " ".join(f"{name}={info[name]}" for name in names if name in info)


def read_range(path: epath.Path, begin: int, end: int) -> bytes:
    """Bytes of an object, in one request. Fewer if it ends before."""
    return backend.fsspec_backend.fs(path).cat_file(os.fspath(path), begin, end)


class Growing:
    """A folder whose files others append to; an object store gets them anew as they grow.

    Attributes:
      local: the folder to write to: the folder itself, or a temporary one.
    """

    def __init__(self, folder: epath.PathLike):
        self._folder = self.local = epath.Path(folder)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._put_at = time.monotonic()
        if is_remote(folder):
            self._temporary = tempfile.TemporaryDirectory(prefix="step1x_jax-")
            self.local = epath.Path(self._temporary.name)

    def put(self, *, now: bool = False) -> None:
        """To be called after an addition: stores allow about one change per object and second.

        Args:
          now: also if they were put less than BETWEEN_PUTS seconds ago.

        Raises:
          OSError: they could not be put.
        """
        if self._temporary and (now or time.monotonic() - self._put_at > BETWEEN_PUTS):
            for parent, _, names in os.walk(self.local):
                for name in names:
                    file = epath.Path(parent) / name
                    put(file, self._folder / file.relative_to(self.local).as_posix())
            self._put_at = time.monotonic()

    def close(self) -> None:
        """Puts them once more, and removes the temporary folder; raises what `put` raises."""
        with self._temporary or contextlib.nullcontext():
            self.put(now=True)


def check_writable(path: epath.PathLike) -> None:
    """Raises UserError unless a file of that name could be written, before long work is done."""
    path = epath.Path(path)
    probe = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        if is_remote(path):
            with tempfile.NamedTemporaryFile(prefix="step1x_jax-") as empty:
                put(empty.name, probe)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise _not_written(path, e) from e


def _not_written(path: epath.Path, e: OSError) -> UserError:
    advice = "choose another place" if e.errno in NO_PLACE else "free space or choose another place"
    if is_remote(path):
        advice = f"look at your access to the bucket, and at the space in {tempfile.gettempdir()}"
    return UserError(
        f"{path} could not be written ({reason(e)}); {advice}. What was there before is unchanged."
    )


def reason(e: OSError) -> str:
    """What went wrong, on one line."""
    return e.strerror or " ".join(str(e).split())


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root; one on object storage (gs://...) is so already."""
    return epath.Path(path) if is_remote(path) else epath.Path(path).resolve()


def fingerprint(path: epath.PathLike) -> str:
    """A short hash of a file, or of a folder's files, that is quick on large ones.

    It covers names, sizes, and the first and last MiB of each file; the name of `path` itself does
    not count, so that a copy has the fingerprint of its original.

    Raises:
      UserError: there is nothing there.
    """
    path = epath.Path(path)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
    if not files:
        raise UserError(f"{path} does not exist; give a model's file or folder.")
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().length
        digest.update(f"{file.name if path.is_dir() else ''} {size} ".encode())
        with file.open("rb") as f:
            digest.update(f.read(MIB))
            f.seek(max(size - MIB, 0))
            digest.update(f.read(MIB))
    return digest.hexdigest()[:16]


def check_local(folder: epath.PathLike) -> None:
    """Raises UserError if a folder that is to appear as a whole would be on an object store."""
    if is_remote(folder):
        raise UserError(
            f"{folder} is on an object store, where no folder appears as a whole; write it to a"
            " disk, and copy it there."
        )


@contextlib.contextmanager
def making_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a temporary folder beside `path`; it takes that name if the block succeeds.

    Parent folders are made. On any error the temporary folder is removed with all in it.

    Args:
      path: the folder to make, which must not exist; on a disk, for an object store has no names of
        folders that could be given to many objects at once.

    Yields:
      The temporary folder.

    Raises:
      UserError: the disk is full, or the place cannot be written to, or is on an object store.
    """
    path = epath.Path(path)
    check_local(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as e:
        raise _not_written(path, e) from e
    finally:
        if temporary.exists():
            temporary.rmtree()
