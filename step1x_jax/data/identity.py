"""Detects whether a chunk's pictures have changed since the chunk was made.

A chunk stores a stamp of its picture files (sizes and times) and a digest of their contents. While
the stamp is equal, nothing is read; after files were moved or copied, the digest decides.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from step1x_jax.data.manifest import PictureState
from step1x_jax.data.sources import Triplet, UnreadableError, read_picture
from step1x_jax.errors import UserError

UNREADABLE = "unreadable"  # at the moment: the next run tries again
NO_PICTURE = "none"
READ_THREADS = 32


def read_content(path: str) -> tuple[bytes | UserError, str]:
    """Read a picture's file.

    Returns:
      Its bytes or the error, and a digest: sha256 of the bytes, UNREADABLE or NO_PICTURE.
    """
    try:
        data = read_picture(path)
    except UnreadableError as e:
        return e, UNREADABLE
    except UserError as e:
        return e, NO_PICTURE
    return data, hashlib.sha256(data).hexdigest()


def combine_digests(texts: Iterable[str]) -> str:
    """Combine digests into one, 32 hexadecimal digits."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def describe_pictures(stamp: str, digests: Sequence[str], changes: int) -> PictureState:
    """Return what a chunk stores about its pictures, given their digests in order."""
    return PictureState("" if UNREADABLE in digests else stamp, combine_digests(digests), changes)


def compute_digests(triplets: Sequence[Triplet]) -> list[str]:
    """Compute the digests of each edit's source and target, in order; reads all pictures."""
    paths = [path for one in triplets for path in (one.source_path, one.target_path)]
    with ThreadPoolExecutor(READ_THREADS) as threads:
        return list(threads.map(lambda path: read_content(path)[1], paths))
