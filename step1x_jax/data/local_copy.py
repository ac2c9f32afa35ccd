"""Shards of an object store, copied to the local disk before they are read.

Training reads single records at random places of all shards, and ArrayRecord opens local paths. The
copies lie in ~/.cache/step1x_jax/records, a folder for each data set, until someone deletes them.
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
from step1x_jax.data.shards import COPY_OF, ShardInfo, check_size, unreadable
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable, fetch, file_size, identity, is_remote, replacing

CACHE = "~/.cache/step1x_jax/records"
AT_ONCE = 8  # shards that are fetched
ASKING = 32  # questions to the store
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def on_local_disk(folder: epath.Path, manifest: Manifest) -> epath.Path:
    """A folder with the shards of a data set on a local or mounted disk.

    Processes of one machine fetch each shard once: the first one does it, the others wait. A shard
    that was made anew is fetched anew.

    Args:
      folder: of the data set.
      manifest: which says what is in it.

    Returns:
      `folder` itself unless it is on an object store.

    Raises:
      UserError: a shard is missing or has another size, or the disk is too small.
    """
    if not is_remote(folder):
        return folder
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    copies = epath.Path(CACHE).expanduser() / name
    with ThreadPoolExecutor(ASKING) as threads:
        # what the store has now, asked by exact names
        wanted = dict(
            threads.map(lambda shard: (shard.file, _identity(folder, shard)), manifest.shards)
        )
    with _locked(copies):
        missing = [s for s in manifest.shards if not _is_there(copies, s, wanted[s.file])]
        if missing:
            _check_space(folder, copies, missing)
            _fetch(folder, copies, missing, wanted)
    return copies


def _identity(folder: epath.Path, shard: ShardInfo) -> str:
    check_size(folder / shard.file, shard)
    return identity(folder / shard.file)


def _note(copies: epath.Path, shard: ShardInfo) -> epath.Path:
    """The file that says which object the copy is of."""
    return copies / f"{shard.file}{COPY_OF}"


def _is_there(copies: epath.Path, shard: ShardInfo, wanted: str) -> bool:
    copy, note = copies / shard.file, _note(copies, shard)
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

        def one(shard: ShardInfo) -> int:
            # the note goes first and comes last: a copy without it counts as none
            _note(copies, shard).unlink(missing_ok=True)
            with replacing(copies / shard.file) as temporary:
                try:
                    fetch(folder / shard.file, temporary)
                except OSError as e:
                    if e.errno in NO_SPACE:  # of the copy
                        raise
                    raise unreadable(folder / shard.file, e) from e
                if file_size(temporary) != shard.bytes:
                    raise unreadable(folder / shard.file, OSError("it ended early"))
            with replacing(_note(copies, shard)) as temporary:
                temporary.write_text(wanted[shard.file])
            return shard.bytes

        with ThreadPoolExecutor(AT_ONCE) as threads:
            for done in threads.map(one, missing):
                bar.update(done)


@contextmanager
def _locked(copies: epath.Path) -> Iterator[None]:
    """One process at a time; the system unlocks when a process ends, however it does."""
    check_writable(copies / ".lock")
    with open(copies / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
