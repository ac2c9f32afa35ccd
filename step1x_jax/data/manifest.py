"""Manifests: what a data set, or a part of one, consists of.

A folder is a complete data set once it has dataset.json.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

from etils import epath

from step1x_jax.data.records import EditRecord
from step1x_jax.data.shards import ShardInfo, writing_shards
from step1x_jax.errors import UserError
from step1x_jax.files import reason, replacing

MANIFEST = "dataset.json"
VERSION = 3


@dataclasses.dataclass
class BadRow:
    """An edit that could not be used, and why."""

    row: str
    reason: str


@dataclasses.dataclass
class Source:
    """One of the lists of edits that a data set was made from.

    Attributes:
      name: for people.
      weight: its share of what training draws, relative to the others', whatever their sizes; None
        for all of them: every edit comes equally often.
    """

    name: str = ""
    weight: float | None = None


@dataclasses.dataclass
class Manifest:
    """What dataset.json says.

    Attributes:
      settings: how the records were made; free form.
      shards: the files.
      bad_rows: what was left out; in a part's only, the data set's are a list of their own.
      sources: what the shards' numbers of sources mean.
      version: of this file's form.
    """

    settings: dict[str, Any]
    shards: list[ShardInfo]
    bad_rows: list[BadRow] = dataclasses.field(default_factory=list)
    sources: list[Source] = dataclasses.field(default_factory=lambda: [Source()])
    version: int = VERSION

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
    try:
        if not path.is_file():
            raise UserError(
                f"{path} is missing; run launch.precompute with --output={path.parent} to its end."
            )
        values = json.loads(path.read_text())
        version = values.get("version", 1)
        if version <= VERSION:
            return _manifest(values, version)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"{path} is damaged ({e!r}); delete it and run launch.precompute again."
        ) from e
    except OSError as e:  # of an object store: no access
        raise UserError(f"{path} cannot be read ({reason(e)}); look at your access to it.") from e
    raise UserError(
        f"{path} was written by a newer version of step1x_jax (form {version}, this one reads up to"
        f" {VERSION}); upgrade step1x_jax."
    )


def _manifest(values: dict[str, Any], version: int) -> Manifest:
    """Raises ValueError, KeyError, TypeError or AttributeError for values that are no manifest."""
    shards = []
    for fields in values["shards"]:
        if version == 1:  # every record had a negative embedding
            fields["negatives"] = fields["records"]
        shard = ShardInfo(**fields)
        h, w = shard.latent_size
        shard.latent_size = (h, w)
        shards.append(shard)
    sources = [Source(**source) for source in values.get("sources", [{}])]
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and (len(weights) < len(sources) or not all(0 < w < math.inf for w in weights)):
        raise ValueError(f"the sources have the weights {weights}")
    if not all(0 <= shard.source < len(sources) for shard in shards):
        raise ValueError("a shard has a source that is not in the list")
    bad_rows = [BadRow(**row) for row in values["bad_rows"]]
    return Manifest(values["settings"], shards, bad_rows, sources)


def records_fingerprint(manifest: Manifest) -> str:
    """A short hash of a data set's records and their order, wherever the data set is.

    It changes when records are added, removed, changed or reordered, and neither by moving or
    copying the folder nor by other weights of its sources. Shards without a digest (manifests of
    before version 3) count by their names and sizes.

    Args:
      manifest: of the data set.

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for latent_size, shards in manifest.buckets.items():
        for shard in shards:
            content = shard.digest or f"{shard.file} {shard.bytes}"
            digest.update(f"{latent_size} {shard.records} {content}\n".encode())
    return digest.hexdigest()[:16]


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
