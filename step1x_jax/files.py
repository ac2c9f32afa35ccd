"""Writing files so that a name means a complete file, here or on an object store.

Here a file is written beside its place and renamed. An object store (gs://, s3://, ...) has neither
rename nor append, and lists late what was written; but an object is there as a whole once it has
been put, and is found by its exact name. So a file for it is made in a local temporary folder
(TMPDIR) and put when it is complete; what consists of several objects is complete with the one that
is put last, which readers ask for by name.
"""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator

import fsspec.config
from etils import epath
from etils.epath import backend

from step1x_jax.errors import UserError

MIB = 1 << 20
STORES = ("gs", "s3", "az", "hf", "abfs", "abfss")  # what a path with :// may be on
SAMPLES, SAMPLE = 32, 64 << 10  # places of a file that its fingerprint covers, and their bytes
BETWEEN_PUTS = 30.0  # seconds, of a growing file

# Errors of the place itself, which free space does not remedy.
NO_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST, errno.ENAMETOOLONG,
)  # fmt: skip
# What a file system that has no locks answers to flock.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

# Other processes and other libraries write there, too: what was listed before says nothing now.
for _protocol in ("gs", "s3", "abfs"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is on an object store."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[epath.Path]:
    """Give a local or neighbouring temporary path; its file takes its place if the block succeeds.

    Parent folders are made. On any error the temporary file is removed and what was under the name
    before stays. What a killed process left of the same file is removed.

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
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = at_end.enter_context(_temporary(path, folder=False))
            yield temporary
            if is_remote(path):
                put(temporary, path)
            else:
                temporary.replace(path)
        except OSError as e:
            raise _not_written(path, e) from e


def put(local: epath.PathLike, path: epath.PathLike) -> None:
    """Copy a file to an object store, where it appears as a whole or not at all.

    Raises:
      OSError: it is not there; what stood under the name before stays.
    """
    with _os_errors():
        # put_file, for the files of fsspec end their object on any exception, however short it is
        backend.fsspec_backend.fs(path).put_file(os.fspath(local), os.fspath(path))


def fetch(path: epath.PathLike, local: epath.PathLike) -> None:
    """Copy an object to a local file.

    Raises:
      OSError: it could not be read or written.
    """
    with _os_errors():
        backend.fsspec_backend.fs(path).get_file(os.fspath(path), os.fspath(local))


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Make OSErrors of what the libraries of the stores raise, each its own."""
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
        """Put them once more, and remove the temporary folder; raise what `put` raises."""
        with self._temporary or contextlib.nullcontext():
            self.put(now=True)


def check_writable(path: epath.PathLike) -> None:
    """Raise UserError unless a file of that name could be written, before long work is done."""
    path = epath.Path(path)
    probe = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        if is_remote(path):
            with tempfile.NamedTemporaryFile(prefix="step1x_jax-") as empty:
                put(empty.name, probe)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
        probe.unlink(missing_ok=True)  # another process may have taken it for a leftover
        if not is_remote(path) and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
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


def is_file(path: epath.PathLike) -> bool:
    """Whether there is a file of bytes: epath's is_file() is true of pipes and devices, too."""
    return epath.Path(path).is_file() if is_remote(path) else os.path.isfile(path)


def file_size(path: epath.PathLike) -> int:
    """Bytes of a file, whoever owns it: epath's stat() fails where the owner has no name.

    Raises:
      OSError: it does not exist, or cannot be looked at.
    """
    if is_remote(path):
        return epath.Path(path).stat().length
    return os.stat(path).st_size


def find(folder: epath.PathLike, pattern: str) -> list[epath.Path]:
    """What is in a folder under names of a pattern, sorted; nothing if there is no such folder.

    Unlike with glob, the folder's own name is taken as it is, brackets included.

    Args:
      folder: where.
      pattern: of names, as fnmatch has them.

    Raises:
      UserError: the folder cannot be listed.
    """
    try:
        paths = list(epath.Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise UserError(f"{folder} cannot be listed ({reason(e)}); check its rights.") from e
    return sorted(path for path in paths if fnmatch.fnmatchcase(path.name, pattern))


def user_path(text: str, *, stored: bool = False) -> str:
    """A path as a user gave it, with ~ as the home folder.

    Args:
      text: on a disk or an object store.
      stored: whether it is written into JSON, which has no words for bytes that are not UTF-8.

    Raises:
      UserError: no file system could hold it, or its ~ is of nobody known.
    """
    if "\0" in text:
        raise UserError(f"{text!r} has a null character, which no path has; remove it.")
    if is_remote(text):
        return text
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise UserError(f"{text}: nobody of that name has a home here; write ./{text} for a file.")
    if stored and expanded != expanded.encode(errors="replace").decode():
        raise UserError(f"{text!r} is no valid UTF-8; rename the file or folder.")
    return expanded


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root; one on object storage (gs://...) is so already."""
    return epath.Path(path) if is_remote(path) else epath.Path(path).resolve()


def fingerprint(path: epath.PathLike) -> str:
    """Short hashes of a file, or of a folder's files, that are quick on large ones.

    Covered are names, sizes, and the first and last MiB of each file; after a hyphen, SAMPLES
    places between these: of a model that was trained further or merged with adapters, layers in
    the middle alone may differ. The name of `path` itself does not count, so that a copy has the
    fingerprint of its original. To be compared by `same_files`.

    Raises:
      UserError: there is nothing there, or it cannot be read.
    """
    path = epath.Path(path)
    ends, places = hashlib.sha256(), hashlib.sha256()
    try:
        files = [path] if path.is_file() else []
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
        if not files:
            raise UserError(f"{path} does not exist; give a model's file or folder.")
        for file in files:
            size = file_size(file)
            ends.update(f"{file.name if path.is_dir() else ''} {size} ".encode())
            with file.open("rb") as f:
                ends.update(f.read(MIB))
                for i in range(1, SAMPLES + 1):
                    begin = size * i // (SAMPLES + 1)
                    if MIB <= begin < size - MIB:
                        f.seek(begin)
                        places.update(f.read(SAMPLE))
                f.seek(max(size - MIB, 0))
                ends.update(f.read(MIB))
    except OSError as e:
        raise UserError(f"{path} cannot be read ({reason(e)}); check its rights and disk.") from e
    return f"{ends.hexdigest()[:16]}-{places.hexdigest()[:16]}"


def same_files(first: str, second: str) -> bool:
    """Whether two fingerprints are of the same files, as far as both of them tell.

    Those that earlier versions recorded cover the ends of files alone.
    """
    return all(a == b for a, b in zip(first.split("-"), second.split("-"), strict=False))


def check_local(folder: epath.PathLike) -> None:
    """Raise UserError if a folder that is to appear as a whole would be on an object store."""
    if is_remote(folder):
        raise UserError(
            f"{folder} is on an object store, where no folder appears as a whole; write it to a"
            " disk, and copy it there."
        )


@contextlib.contextmanager
def making_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """Give a temporary folder beside `path`; it takes that name if the block succeeds.

    Parent folders are made. On any error the temporary folder is removed with all in it, and so is
    what a killed process left of the same folder.

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path, folder=True) as temporary:
            yield temporary
            temporary.rename(path)
    except OSError as e:
        raise _not_written(path, e) from e


@contextlib.contextmanager
def _temporary(path: epath.Path, *, folder: bool) -> Iterator[epath.Path]:
    """Give an empty file or folder beside `path`, held by a lock, and remove it at the end.

    Before that it removes those that no process holds: their processes were killed.
    """
    ours = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.tmp")
    for name in os.listdir(path.parent):
        if ours.fullmatch(name):
            _remove_unless_held(os.path.join(path.parent, name))
    while True:
        # Random: machines may write to one folder, with equal process numbers.
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        if folder:
            temporary.mkdir()
        else:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        lock = _lock(temporary)
        if lock is not None:  # else another process took it for a leftover just now
            break
    try:
        yield temporary
    finally:
        os.close(lock)
        _remove(temporary)


def _remove_unless_held(path: str) -> None:
    with contextlib.suppress(OSError):
        lock = _lock(path, needed=True)
        if lock is not None:
            try:
                _remove(path)
            finally:
                os.close(lock)


def _remove(path: epath.PathLike) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _lock(path: epath.PathLike, *, needed: bool = False) -> int | None:
    """A descriptor that holds a file or folder until it is closed or its process ends.

    Args:
      path: what exists.
      needed: whether a file system without locks counts as one where another process holds it.

    Returns:
      None if another process holds it, or has removed or replaced it.
    """
    try:
        lock = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(path)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as e:
        if e.errno in NO_LOCKS and not needed:
            return lock
        if e.errno not in NO_LOCKS:
            os.close(lock)
            raise
    os.close(lock)
    return None


@contextlib.contextmanager
def exclusive(path: epath.PathLike, message: str) -> Iterator[None]:
    """Hold a lock file, so that no second process does the same work at the same time.

    The lock ends with the process, however that ends. Object stores and file systems without locks
    have none: there nothing is held.

    Args:
      path: of the lock file, which is made with its folder, and removed at the end.
      message: of the error, a sentence for the user.

    Raises:
      UserError: another process holds it, or the file cannot be made.
    """
    if is_remote(path):
        yield
        return
    path = epath.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(100):  # until the one who held it has removed it
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
            lock = _lock(path)
            if lock is not None or path.exists():
                break
    except OSError as e:
        raise _not_written(path, e) from e
    if lock is None:
        raise UserError(message)
    try:
        yield
    finally:
        _remove(path)
        os.close(lock)
