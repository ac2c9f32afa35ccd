"""Manifests: what a data set, or a chunk of one, consists of.

A folder is a complete data set once it has dataset.json.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from etils import epath

from step1x_jax.bounds import Positive
from step1x_jax.data.records import EditRecord
from step1x_jax.data.shards import ShardInfo, writing_shards
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, is_file, reason, replacing, same_files
from step1x_jax.json_files import build, parse_json, shown

MANIFEST = "dataset.json"
REJECTED = "rejected.jsonl"  # beside it: rows that could not be used, with the reasons
VERSION = 3
MODELS = ("encoder", "autoencoder")  # settings that are fingerprints of files
WAY_ON = (
    "if it is a file of your own, give another folder, else delete it and run launch.precompute"
    " again, which goes on from what is there"
)
LARGEST_WEIGHT = 1e15  # that of Positive
LARGEST = 1 << 29  # bytes of the file: a million shards


@dataclasses.dataclass
class BadRow:
    """An edit that could not be used, and why."""

    row: str
    reason: str


@dataclasses.dataclass
class SourceInfo:
    """One of the lists of edits that a data set was made from.

    Attributes:
      name: for people.
      weight: its share of what training draws, relative to the others', whatever their sizes; None
        for all of them: every edit comes equally often.
    """

    name: str = ""
    weight: Positive | None = None


@dataclasses.dataclass
class PictureState:
    """What a chunk notes of its pictures.

    Attributes:
      stamp: of their files, see identity.py; "" if one could not be read.
      digest: of their contents.
      changes: how often the chunk was made again because they had changed.
    """

    stamp: str
    digest: str
    changes: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclasses.dataclass
class Manifest:
    """What dataset.json says.

    Attributes:
      settings: how the records were made; free form.
      shards: the files.
      bad_rows: what was left out; in a chunk's only, the data set's are a list of their own.
      sources: what the shards' numbers of sources mean.
      pictures: that it was made from; in a chunk's only, and not before version 3.
      version: of this file's form.
    """

    settings: dict[str, Any]
    shards: list[ShardInfo]
    bad_rows: list[BadRow] = dataclasses.field(default_factory=list)
    sources: list[SourceInfo] = dataclasses.field(default_factory=lambda: [SourceInfo()])
    pictures: PictureState | None = None
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
        values = dataclasses.asdict(self)
        for fields, shard in zip(values["shards"], self.shards, strict=True):
            fields["check"] = _check(shard)
        if self.pictures is None:
            del values["pictures"]
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _check(shard: ShardInfo) -> str:
    """Of what the manifest says of a shard's content, all of which is known only by reading it."""
    names = ("file", "latent_size", "records", "bytes", "longest_text", "negatives", "digest")
    facts = [getattr(shard, name) for name in names]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


class MissingError(UserError):
    """There is no manifest: a data set or a chunk that is not complete."""


def read_manifest(path: epath.PathLike) -> Manifest:
    """Reads the manifest of a data set or a chunk.

    Args:
      path: the JSON file.

    Returns:
      The manifest.

    Raises:
      MissingError: missing.
      UserError: no manifest or a damaged one, or written by a newer version.
    """
    path = epath.Path(path)
    try:
        size = file_size(path)
        if not is_file(path):  # a folder, or a pipe, which would be waited for
            raise UserError(f"{path} is no file; give another folder.")
        if size > LARGEST:
            raise UserError(f"{path} has {size} bytes, more than any manifest; {WAY_ON}.")
        data = path.read_bytes()
    except FileNotFoundError as e:
        raise MissingError(
            f"{path} is missing; give the folder that launch.precompute made, or run it to its end"
            f" with --output={path.parent}."
        ) from e
    except OSError as e:
        raise UserError(f"{path} cannot be read ({reason(e)}); look at your access to it.") from e
    try:
        values = build(dict[str, Any], parse_json(data, "it"), "it")
    except UserError as e:
        raise _no_manifest(path, e) from e
    version = values.get("version", 1)
    if type(version) is int and version > VERSION:
        raise UserError(
            f"{path} was written by a newer version of step1x_jax (form {version}, this one reads"
            f" up to {VERSION}); upgrade step1x_jax."
        )
    try:
        return _manifest(values, build(int, version, "it", "version"))
    except UserError as e:
        raise _no_manifest(path, e) from e


def _no_manifest(path: epath.Path, e: UserError) -> UserError:
    return UserError(f"{path} is not as launch.precompute writes it ({str(e)[:300]}); {WAY_ON}.")


@dataclasses.dataclass
class _Fields:
    """The file, with shards still as JSON has them."""

    settings: dict[str, Any]
    shards: list[dict[str, Any]]
    bad_rows: list[BadRow]
    sources: Annotated[list[SourceInfo], msgspec.Meta(min_length=1)] = dataclasses.field(
        default_factory=lambda: [SourceInfo()]
    )
    pictures: PictureState | None = None


def _manifest(values: dict[str, Any], version: int) -> Manifest:
    """Raises UserError, with the reason alone, for values that are no manifest."""
    known = [field.name for field in dataclasses.fields(_Fields)]
    fields = build(_Fields, {name: values[name] for name in known if name in values}, "it")
    weights = [source.weight for source in fields.sources if source.weight is not None]
    if weights and len(weights) < len(fields.sources):
        raise UserError(f"the sources have the weights {shown(weights)}")
    shards = [_shard(one, version, f"shards[{i}]") for i, one in enumerate(fields.shards)]
    if not all(shard.source < len(fields.sources) for shard in shards):
        raise UserError("a shard has a source that is not in the list")
    names = [shard.file for shard in shards]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{shown(twice)} is listed twice")
    return Manifest(fields.settings, shards, fields.bad_rows, fields.sources, fields.pictures)


def _shard(fields: dict[str, Any], version: int, place: str) -> ShardInfo:
    """Raises UserError, with the reason alone."""
    needed = ["file", "latent_size", "records", "bytes", "longest_text"]
    if version > 1:
        needed += ["source", "negatives"]
    if version > 2:
        needed += ["digest", "check"]
    for name in needed:
        if name not in fields:
            raise UserError(f"{place} has no {name}")
    if version == 1:  # every record had a negative embedding
        fields = {**fields, "negatives": fields["records"]}
    check = fields.pop("check", None)
    shard = build(ShardInfo, fields, "it", place)
    if "/" in shard.file or "\\" in shard.file or shard.file in ("", ".", ".."):
        raise UserError(f"{place}.file is {shown(shard.file)}, no name of a file in its folder")
    if not shard.negatives <= shard.records <= shard.bytes:
        raise UserError(
            f"{place} has {shard.records} records in {shard.bytes} bytes, {shard.negatives} of them"
            " with a negative embedding"
        )
    if version > 2 and check != _check(shard):
        raise UserError(f"what it says of {shown(shard.file)} was changed")
    return shard


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


def same_setting(name: str, one: Any, other: Any) -> bool:
    """Whether two data sets were made alike in a setting; models count by their files."""
    if name in MODELS and isinstance(one, str) and isinstance(other, str):
        return same_files(one, other)
    return bool(one == other)


def write_manifest(path: epath.PathLike, manifest: Manifest) -> None:
    """Writes a manifest; an old one is replaced as a whole.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(manifest.to_json().encode())


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
