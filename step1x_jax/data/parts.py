"""Parts: the units in which a data set is made, by one process or many, once or after a break.

A part's shards and then its manifest get their names when the part is complete, so that a second
run finds what is done. The name of a part holds a hash of its rows: changed rows make a new part.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import stored_reading
from step1x_jax.data.manifest import MANIFEST, BadRow, Manifest, Source, read_manifest
from step1x_jax.data.shards import check_size
from step1x_jax.data.sources import Triplet, picture_length
from step1x_jax.errors import UserError

ASKING = 32  # threads that ask for files' sizes: on mounted storage an answer takes a while


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
class Part:
    """A run of an input's rows that is done as a whole.

    Attributes:
      name: holds its place and a hash of its rows.
      source: number of the input.
      triplets: the rows.
    """

    name: str
    source: int
    triplets: Sequence[Triplet]


def split_parts(inputs: Sequence[Input], part_size: int) -> list[Part]:
    """Cuts each input into parts of `part_size` rows, the last one shorter."""
    parts = []
    with ThreadPoolExecutor(ASKING) as threads:
        for source, one in enumerate(inputs):
            for number, start in enumerate(range(0, len(one.triplets), part_size)):
                rows = one.triplets[start : start + part_size]
                sizes = list(threads.map(_sizes, rows))
                name = f"part-{source:02d}-{number:05d}-{_content_hash(rows, sizes)}"
                parts.append(Part(name, source, rows))
    return parts


def _sizes(triplet: Triplet) -> tuple[int, int]:
    return picture_length(triplet.source_path), picture_length(triplet.target_path)


def _content_hash(triplets: Sequence[Triplet], sizes: Sequence[tuple[int, int]]) -> str:
    """Of the rows and their pictures' sizes: a picture that was mended counts as new."""
    digest = hashlib.sha256()
    for triplet, lengths in zip(triplets, sizes, strict=True):
        row = dataclasses.asdict(triplet)
        del row["folder"]  # the list and its pictures may be moved together
        digest.update(json.dumps([row, lengths]).encode())
    return digest.hexdigest()[:12]


def check_settings(output: epath.Path, settings: dict[str, Any]) -> None:
    """Raises UserError, naming a setting, if what lies in a folder was made with other ones."""
    for path in sorted([*output.glob("part-*.json"), *output.glob(MANIFEST)]):
        if not path.is_file():  # an object store may list what is gone
            continue
        before = read_manifest(path).settings
        before |= stored_reading(before)
        for name, value in settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"{output} was made with {name}={before.get(name)}, now it is {value}; give"
                    " another --output, or remove that folder to start again."
                )


def manifest_of(output: epath.Path, part: Part) -> epath.Path:
    """Where the manifest of a part lies, when it is complete."""
    return output / f"{part.name}.json"


def finished(output: epath.Path, part: Part) -> Manifest | None:
    """The manifest of a part if all of it is there."""
    path = manifest_of(output, part)
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    try:
        for shard in manifest.shards:
            check_size(output / shard.file, shard)
    except UserError:
        return None
    return manifest


def joined(
    inputs: Sequence[Input], parts: Sequence[Part], manifests: Sequence[Manifest], settings: Any
) -> tuple[Manifest, list[BadRow]]:
    """The manifest of the data set that all parts make, and all rows that are not in it."""
    shards = [
        dataclasses.replace(shard, source=part.source)
        for part, manifest in zip(parts, manifests, strict=True)
        for shard in manifest.shards
    ]
    bad_rows = [bad for one in inputs for bad in one.bad_rows]
    bad_rows += [bad for manifest in manifests for bad in manifest.bad_rows]
    sources = [Source(one.name, one.weight) for one in inputs]
    return Manifest(settings, shards, sources=sources), bad_rows
