"""Chunks: the units in which a data set is made, by one process or many, once or after a break.

A chunk's shards and then its manifest get their names when the chunk is complete, so that a second
run finds what is done. The name of a chunk holds a hash of its rows: changed rows make a new chunk.
On disk and in the flag --part_size a chunk is called a part, as it always was.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import stored_reading
from step1x_jax.data.identity import combine, describe, digests_now
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
from step1x_jax.data.sources import CHUNK_MANIFEST, Triplet, picture_stamp
from step1x_jax.errors import UserError
from step1x_jax.files import find

ASKING = 32  # threads that ask for files' sizes: on mounted storage an answer takes a while
NEW_SETTINGS = ("min_kept",)  # that data sets of before do not have; their chunks stay as they are


@dataclasses.dataclass
class Input:
    """A list of edits.

    Attributes:
      name: of the list, for people.
      triplets: the edits.
      bad_rows: rows of it that are none.
      weight: its share of what training draws, relative to the other lists'; None for all of them:
        every edit counts the same.
    """

    name: str
    triplets: Sequence[Triplet]
    bad_rows: Sequence[BadRow] = ()
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of an input that are done as a whole.

    Attributes:
      name: holds its place and a hash of its rows.
      source: number of the input.
      triplets: the rows.
      stamp: of their pictures' files as they are now.
      missing: how many of these are not there.
    """

    name: str
    source: int
    triplets: Sequence[Triplet]
    stamp: str
    missing: int


@dataclasses.dataclass
class ChunkState:
    """What there is of a chunk.

    Attributes:
      manifest: None unless all of it is there, made from the pictures as they are.
      changes: how often its pictures changed since it was made for the first time.
    """

    manifest: Manifest | None
    changes: int = 0


def split_chunks(inputs: Sequence[Input], chunk_size: int) -> list[Chunk]:
    """Cuts each input into chunks of `chunk_size` rows, the last one shorter."""
    chunks = []
    with ThreadPoolExecutor(ASKING) as threads:
        for source, one in enumerate(inputs):
            for number, start in enumerate(range(0, len(one.triplets), chunk_size)):
                rows = one.triplets[start : start + chunk_size]
                files = list(threads.map(_picture_stamps, rows))
                sizes = [(before[0], after[0]) for before, after in files]
                name = f"part-{source:02d}-{number:05d}-{_content_hash(rows, sizes)}"
                stamp = combine(text for pair in files for _, text in pair)
                missing = sum(size == -1 for pair in sizes for size in pair)
                chunks.append(Chunk(name, source, rows, stamp, missing))
    return chunks


def check_pictures(inputs: Sequence[Input], chunks: Sequence[Chunk]) -> None:
    """Raises UserError if of all pictures of a list not one is there."""
    for source, one in enumerate(inputs):
        missing = sum(chunk.missing for chunk in chunks if chunk.source == source)
        if one.triplets and missing == 2 * len(one.triplets):
            raise UserError(
                f"none of the pictures that {one.name} names is there, the first would be"
                f" {one.triplets[0].source_path}; see whether their disk is mounted, and give the"
                " folder where the paths start with --root if it is not that of the list."
            )


def _picture_stamps(triplet: Triplet) -> tuple[tuple[int, str], tuple[int, str]]:
    return picture_stamp(triplet.source_path), picture_stamp(triplet.target_path)


def _content_hash(triplets: Sequence[Triplet], sizes: Sequence[tuple[int, int]]) -> str:
    """Of the rows and their pictures' sizes."""
    digest = hashlib.sha256()
    for triplet, lengths in zip(triplets, sizes, strict=True):
        row = dataclasses.asdict(triplet)
        del row["folder"]  # the list and its pictures may be moved together
        digest.update(json.dumps([row, lengths]).encode())
    return digest.hexdigest()[:12]


def check_settings(output: epath.Path, settings: dict[str, Any]) -> None:
    """Raises UserError, naming a setting, if what lies in a folder was made with other ones."""
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
        except MissingError:  # an object store may list what is gone
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
    """Where the manifest of a chunk is, once the chunk is complete."""
    return output / f"{chunk.name}.json"


def shard_prefix(chunk: Chunk, changes: int) -> str:
    """What the names of a chunk's shards begin with.

    Made again from other pictures under the same names, the shards get another name: while they are
    made, and if that is interrupted, the data set is still what its manifest says.

    Args:
      chunk: whose shards they are.
      changes: how often its pictures have changed.
    """
    return f"{chunk.name}-{changes}" if changes else chunk.name


def find_chunk(output: epath.Path, chunk: Chunk, *, mine: bool) -> ChunkState:
    """Looks for a chunk; reads its pictures if their files are not those that it was made from.

    Args:
      output: folder of the data set.
      chunk: to look for.
      mine: whether to note that files which were moved or copied have the same pictures, so that
        these need not be read again; it is a chunk of this process.
    """
    path = manifest_path(output, chunk)
    try:
        manifest = read_manifest(path)
    except MissingError:
        return ChunkState(None)
    pictures = manifest.pictures or PictureState(
        chunk.stamp, ""
    )  # before version 3: as it was then
    if pictures.stamp != chunk.stamp:
        now = describe(chunk.stamp, digests_now(chunk.triplets), pictures.changes)
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
    """The manifest of the data set that all chunks make, and all rows that are not in it."""
    shards = [
        dataclasses.replace(shard, source=chunk.source)
        for chunk, manifest in zip(chunks, manifests, strict=True)
        for shard in manifest.shards
    ]
    bad_rows = [bad for one in inputs for bad in one.bad_rows]
    bad_rows += [bad for manifest in manifests for bad in manifest.bad_rows]
    sources = [SourceInfo(one.name, one.weight) for one in inputs]
    return Manifest(settings, shards, sources=sources), bad_rows
