"""Manifests: what a data set, or a part of one, consists of.

A folder is a complete data set once it has dataset.json.
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from step1x_jax.data.records import SCHEMA_VERSION, EditRecord
from step1x_jax.data.shards import ShardInfo, writing_shards
from step1x_jax.errors import UserError
from step1x_jax.files import replacing

MANIFEST = "dataset.json"


@dataclasses.dataclass
class BadRow:
    """An edit that could not be used, and why."""

    row: str
    reason: str


@dataclasses.dataclass
class Source:
    name: str
    weight: float | None


@dataclasses.dataclass
class Manifest:
    """What dataset.json says.

    Attributes:
      settings: how the records were made; free form.
      shards: the files.
      bad_rows: what was left out.
      schema_version: of the records.
    """

    settings: dict[str, Any]
    shards: list[ShardInfo]
    bad_rows: list[BadRow] = dataclasses.field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    sources: list[Source] = dataclasses.field(default_factory=lambda: [Source("", None)])

    @property
    def records(self) -> int:
        """Number of records in all shards."""
        return sum(shard.records for shard in self.shards)

    @property
    def buckets(self) -> dict[tuple[int, int], list[ShardInfo]]:
        """The shards by latent size (h, w), in an order that does not depend on the file's."""
        buckets: dict[tuple[int, int], list[ShardInfo]] = {}
        for shard in sorted(self.shards, key=lambda shard: (shard.latent_size, shard.file)):
            buckets.setdefault(shard.latent_size, []).append(shard)
        return buckets

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_manifest(path: epath.PathLike) -> Manifest:
    """Reads the manifest of a data set or a part.

    Args:
      path: the JSON file.

    Returns:
      The manifest.

    Raises:
      UserError: missing, damaged, or written by a newer version.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} is missing; run launch.precompute with --output={path.parent} to its end."
        )
    try:
        values = json.loads(path.read_text())
        version = values["schema_version"]
        if version <= SCHEMA_VERSION:
            shards = [ShardInfo(**shard) for shard in values["shards"]]
            for shard in shards:
                h, w = shard.latent_size
                shard.latent_size = (h, w)
            bad_rows = [BadRow(**row) for row in values["bad_rows"]]
            return Manifest(
                values["settings"],
                shards,
                bad_rows,
                version,
                [Source(**s) for s in values["sources"]],
            )
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"{path} is damaged ({e!r}); delete it and run launch.precompute again."
        ) from e
    raise UserError(
        f"{path} was written by a newer version of step1x_jax (schema {version}, this one reads up"
        f" to {SCHEMA_VERSION}); upgrade step1x_jax."
    )


def write_manifest(path: epath.PathLike, manifest: Manifest) -> None:
    """Writes a manifest; an old one is replaced as a whole.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    with replacing(path) as temporary:
        temporary.write_text(manifest.to_json())


def write_dataset(
    folder: epath.PathLike, records: Iterable[EditRecord], settings: dict[str, Any] | None = None
) -> Manifest:
    """Writes a whole data set from records made elsewhere.

    Args:
      folder: to write into.
      records: any number; only one is held at a time.
      settings: to be noted in the manifest.

    Returns:
      The manifest, which was written too.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    with writing_shards(folder, "records") as shards:
        for record in records:
            shards.write(record)
    manifest = Manifest(settings or {}, shards.close())
    write_manifest(epath.Path(folder) / MANIFEST, manifest)
    return manifest
