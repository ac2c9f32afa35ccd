"""Copies shards from an object store to the local disk before they are read.

Training reads single records at random positions of all shards, and ArrayRecord opens only local
paths. The copies are in ~/.cache/step1x_jax/records, in one folder per data set; they are never
deleted automatically.
"""

import errno
import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from etils import epath
from tqdm import tqdm

from step1x_jax.data.manifest import Manifest
from step1x_jax.data.shards import COPY_NOTE_SUFFIX, ShardInfo, check_size, unreadable_error
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable, fetch, file_size, identity, is_remote, replacing

CACHE = "~/.cache/step1x_jax/records"
FETCH_THREADS = 8  # shards fetched in parallel
STAT_THREADS = 32  # metadata requests in parallel
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def copy_to_local_disk(folder: epath.Path, manifest: Manifest) -> epath.Path:
    """Make the shards of a data set available on a local or mounted disk.

    Processes of one machine fetch each shard once: the first process fetches, the others wait. A
    shard that was replaced in the store is fetched again.

    Args:
      folder: folder of the data set.
      manifest: manifest of the data set.

    Returns:
      The folder of the copies, or `folder` itself if it is not on an object store.

    Raises:
      UserError: a shard is missing or has another size, or the disk has too little space.
    """
    if not is_remote(folder):
        return folder
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    copies = epath.Path(CACHE).expanduser() / name
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        # current objects, requested by exact names: listings may be stale
        wanted = dict(
            threads.map(
                lambda shard: (shard.file, _check_and_identify(folder, shard)), manifest.shards
            )
        )
    with _lock_folder(copies):
        missing = [s for s in manifest.shards if not _is_copied(copies, s, wanted[s.file])]
        if missing:
            _check_space(folder, copies, missing)
            _fetch(folder, copies, missing, wanted)
    return copies


def _check_and_identify(folder: epath.Path, shard: ShardInfo) -> str:
    check_size(folder / shard.file, shard)
    return identity(folder / shard.file)


def _note_path(copies: epath.Path, shard: ShardInfo) -> epath.Path:
    """Return the path of the note that identifies the copied object."""
    return copies / f"{shard.file}{COPY_NOTE_SUFFIX}"


def _is_copied(copies: epath.Path, shard: ShardInfo, wanted: str) -> bool:
    copy, note = copies / shard.file, _note_path(copies, shard)
    if not (copy.exists() and note.exists()):
        return False
    return file_size(copy) == shard.bytes and note.read_text() == wanted


def _check_space(folder: epath.Path, copies: epath.Path, missing: Sequence[ShardInfo]) -> None:
    needed, free = sum(shard.bytes for shard in missing), shutil.disk_usage(copies).free
    if needed > free:
        raise UserError(
            f"{folder} is read from a copy in {copies}, for which {needed / 1e9:.1f} GB more are"
            f" needed and {free / 1e9:.1f} GB are free; free space, or mount the bucket (gcsfuse)"
            " and give the mounted folder."
        )


def _fetch(
    folder: epath.Path, copies: epath.Path, missing: Sequence[ShardInfo], wanted: dict[str, str]
) -> None:
    total = sum(shard.bytes for shard in missing)
    with tqdm(total=total, desc=f"copying {folder}", unit="B", unit_scale=True) as bar:

        def fetch_one(shard: ShardInfo) -> int:
            # delete the note first and write it last: a copy without a note is incomplete
            _note_path(copies, shard).unlink(missing_ok=True)
            with replacing(copies / shard.file) as temporary:
                try:
                    fetch(folder / shard.file, temporary)
                except OSError as e:
                    if e.errno in NO_SPACE:  # on the local disk
                        raise
                    raise unreadable_error(folder / shard.file, e) from e
                if file_size(temporary) != shard.bytes:
                    raise unreadable_error(folder / shard.file, OSError("it ended early"))
            with replacing(_note_path(copies, shard)) as temporary:
                temporary.write_text(wanted[shard.file])
            return shard.bytes

        with ThreadPoolExecutor(FETCH_THREADS) as threads:
            for done in threads.map(fetch_one, missing):
                bar.update(done)


@contextmanager
def _lock_folder(copies: epath.Path) -> Iterator[None]:
    """Lock the folder for one process; the system releases the lock if the process dies."""
    check_writable(copies / ".lock")
    with open(copies / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
