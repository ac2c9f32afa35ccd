"""Chunks: the units in which one or several processes make a data set, and can resume it.

When a chunk is complete its shards get their final names, then its manifest, so that a second run
finds what is done. The name of a chunk contains a hash of its rows: changed rows make a new chunk.
On disk and in the flag --part_size a chunk is called a part.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import stored_reading
from step1x_jax.data.identity import combine_digests, compute_digests, describe_pictures
from step1x_jax.data.manifest import (
    MANIFEST,
    REJECTED,
    BadRow,
    Manifest,
    MissingError,
    PictureState,
    SourceInfo,
    read_manifest,
    same_setting,
    write_manifest,
)
from step1x_jax.data.shards import DamagedShardError, check_size
from step1x_jax.data.sources import CHUNK_MANIFEST, Triplet, stamp_picture
from step1x_jax.errors import UserError
from step1x_jax.files import find

STAT_THREADS = 32  # threads that query file sizes: on mounted storage a query takes milliseconds
NEW_SETTINGS = ("min_kept",)  # missing in older data sets, whose chunks are kept


@dataclasses.dataclass
class Input:
    """A list of edits.

    Attributes:
      name: name of the list, for messages.
      triplets: the edits.
      bad_rows: rows of the list that are not edits.
      weight: relative share of the training draws that come from this list; None in all lists:
        every edit is drawn equally often.
    """

    name: str
    triplets: Sequence[Triplet]
    bad_rows: Sequence[BadRow] = ()
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of an input that are made as a whole.

    Attributes:
      name: contains the chunk's position and a hash of its rows.
      source: index of the input.
      triplets: the rows.
      stamp: stamp of the current picture files.
      missing: number of picture files that do not exist.
    """

    name: str
    source: int
    triplets: Sequence[Triplet]
    stamp: str
    missing: int


@dataclasses.dataclass
class ChunkState:
    """The state of a chunk on disk.

    Attributes:
      manifest: None unless the chunk is complete and was made from the current pictures.
      changes: how often its pictures have changed since the chunk was first made.
    """

    manifest: Manifest | None
    changes: int = 0


def split_chunks(inputs: Sequence[Input], chunk_size: int) -> list[Chunk]:
    """Split each input into chunks of `chunk_size` rows; its last chunk may be shorter."""
    chunks = []
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        for source, one in enumerate(inputs):
            for number, start in enumerate(range(0, len(one.triplets), chunk_size)):
                rows = one.triplets[start : start + chunk_size]
                files = list(threads.map(_stamp_pictures, rows))
                sizes = [(before[0], after[0]) for before, after in files]
                name = f"part-{source:02d}-{number:05d}-{_hash_content(rows, sizes)}"
                stamp = combine_digests(text for pair in files for _, text in pair)
                missing = sum(size == -1 for pair in sizes for size in pair)
                chunks.append(Chunk(name, source, rows, stamp, missing))
    return chunks


def check_pictures(inputs: Sequence[Input], chunks: Sequence[Chunk]) -> None:
    """Raise UserError if none of the pictures of a list exists."""
    for source, one in enumerate(inputs):
        missing = sum(chunk.missing for chunk in chunks if chunk.source == source)
        if one.triplets and missing == 2 * len(one.triplets):
            raise UserError(
                f"none of the pictures that {one.name} names exists, the first would be"
                f" {one.triplets[0].source_path}; check that their disk is mounted, and give the"
                " folder that the paths are relative to as --root if it is not that of the list."
            )


def _stamp_pictures(triplet: Triplet) -> tuple[tuple[int, str], tuple[int, str]]:
    return stamp_picture(triplet.source_path), stamp_picture(triplet.target_path)


def _hash_content(triplets: Sequence[Triplet], sizes: Sequence[tuple[int, int]]) -> str:
    """Hash rows and the sizes of their pictures; 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for triplet, lengths in zip(triplets, sizes, strict=True):
        row = dataclasses.asdict(triplet)
        del row["folder"]  # a list may be moved together with its pictures
        digest.update(json.dumps([row, lengths]).encode())
    return digest.hexdigest()[:12]


def check_settings(output: epath.Path, settings: dict[str, Any]) -> None:
    """Raise UserError, naming a setting, if the data in a folder was made with other settings."""
    own = output / REJECTED
    made = [path for path in find(output, "part-*.json") if CHUNK_MANIFEST.fullmatch(path.name)]
    made += find(output, MANIFEST)
    if own.exists() and not made:
        raise UserError(
            f"{own} would be replaced, and launch.precompute did not write it; give another"
            " --output, or move that file."
        )
    for path in made:
        try:
            before = read_manifest(path).settings
        except MissingError:  # an object store may list deleted files
            continue
        before |= stored_reading(before)
        for name, value in settings.items():
            if name in NEW_SETTINGS and name not in before:
                continue
            if not same_setting(name, before.get(name), value):
                raise UserError(
                    f"{output} was made with {name}={before.get(name)}, now it is {value}; give"
                    f" another --output, or delete {MANIFEST} and part-*.json there to start again."
                )


def manifest_path(output: epath.Path, chunk: Chunk) -> epath.Path:
    """Return the path of a chunk's manifest, which exists once the chunk is complete."""
    return output / f"{chunk.name}.json"


def shard_prefix(chunk: Chunk, changes: int) -> str:
    """Return the prefix of the names of a chunk's shards.

    A chunk that is made again because its pictures changed gets shards with new names, so that the
    data set still matches its manifest meanwhile, also if the run is interrupted.

    Args:
      chunk: the chunk.
      changes: how often its pictures have changed.
    """
    return f"{chunk.name}-{changes}" if changes else chunk.name


def find_chunk(output: epath.Path, chunk: Chunk, *, mine: bool) -> ChunkState:
    """Find out whether a chunk is complete; reads its pictures if their files have changed.

    Args:
      output: folder of the data set.
      chunk: the chunk.
      mine: whether the chunk belongs to this process. Then the new stamp is stored if the files
        changed (moved, copied) and their contents did not, so that they are not read again.
    """
    path = manifest_path(output, chunk)
    try:
        manifest = read_manifest(path)
    except MissingError:
        return ChunkState(None)
    # Manifests before version 3 store no state: assume that the pictures are unchanged.
    pictures = manifest.pictures or PictureState(chunk.stamp, "")
    if pictures.stamp != chunk.stamp:
        now = describe_pictures(chunk.stamp, compute_digests(chunk.triplets), pictures.changes)
        if now.digest != pictures.digest:
            return ChunkState(None, pictures.changes + 1)
        if mine and now != pictures:
            write_manifest(path, dataclasses.replace(manifest, pictures=now))
    try:
        for shard in manifest.shards:
            check_size(output / shard.file, shard)
    except DamagedShardError:
        return ChunkState(None, pictures.changes)
    return ChunkState(manifest, pictures.changes)


def join_manifests(
    inputs: Sequence[Input], chunks: Sequence[Chunk], manifests: Sequence[Manifest], settings: Any
) -> tuple[Manifest, list[BadRow]]:
    """Return the manifest of the data set made of all chunks, and all rows that are left out."""
    shards = [
        dataclasses.replace(shard, source=chunk.source)
        for chunk, manifest in zip(chunks, manifests, strict=True)
        for shard in manifest.shards
    ]
    bad_rows = [bad for one in inputs for bad in one.bad_rows]
    bad_rows += [bad for manifest in manifests for bad in manifest.bad_rows]
    sources = [SourceInfo(one.name, one.weight) for one in inputs]
    return Manifest(settings, shards, sources=sources), bad_rows
