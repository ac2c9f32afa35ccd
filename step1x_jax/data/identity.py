"""Whether pictures are those that a chunk was made from: by content, asked only if files changed.

A chunk notes a stamp of its files (sizes and times) and a digest of what was in them. While the
stamp is the same nothing is read; after a move or a copy the digest decides.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from step1x_jax.data.manifest import PictureState
from step1x_jax.data.sources import Triplet, UnreadableError, read_picture
from step1x_jax.errors import UserError

UNREADABLE = "unreadable"  # for now: to be tried again
NONE = "none"
READING = 32  # threads


def read_content(path: str) -> tuple[bytes | UserError, str]:
    """A picture's file, or why it cannot be had; and a digest of that."""
    try:
        data = read_picture(path)
    except UnreadableError as e:
        return e, UNREADABLE
    except UserError as e:
        return e, NONE
    return data, hashlib.sha256(data).hexdigest()


def combine(texts: Iterable[str]) -> str:
    """One short digest of many."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def describe(stamp: str, digests: Sequence[str], changes: int) -> PictureState:
    """What to note of pictures with these digests, in order."""
    return PictureState("" if UNREADABLE in digests else stamp, combine(digests), changes)


def digests_now(triplets: Sequence[Triplet]) -> list[str]:
    """The digests of the pictures of edits, source and target of each; reads all of them."""
    paths = [path for one in triplets for path in (one.source_path, one.target_path)]
    with ThreadPoolExecutor(READING) as threads:
        return list(threads.map(lambda path: read_content(path)[1], paths))
