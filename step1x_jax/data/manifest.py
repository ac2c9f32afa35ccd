"""Manifests: the files and settings of a data set, or of one chunk.

A folder is a complete data set once it contains dataset.json.
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
from step1x_jax.data.shards import ShardInfo, open_shard_writer
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, is_file, reason, replacing, same_files
from step1x_jax.json_files import build, parse_json, shown

MANIFEST = "dataset.json"
REJECTED = "rejected.jsonl"  # beside it: rows that were left out, with reasons
VERSION = 3
MODEL_SETTINGS = ("encoder", "autoencoder")  # settings whose values are fingerprints of files
RECOVERY_ADVICE = (
    "if it is a file of your own, give another folder, else delete it and run launch.precompute"
    " again, which continues from what is there"
)
MAX_WEIGHT = 1e15  # the bound of Positive
MAX_MANIFEST_BYTES = 1 << 29  # enough for a million shards


@dataclasses.dataclass
class BadRow:
    """An edit that was left out, and why."""

    row: str
    reason: str


@dataclasses.dataclass
class SourceInfo:
    """One of the lists of edits that a data set was made from.

    Attributes:
      name: name of the list, for messages.
      weight: relative share of the training draws that come from this list, whatever its size; None
        in all lists: every edit is drawn equally often.
    """

    name: str = ""
    weight: Positive | None = None


@dataclasses.dataclass
class PictureState:
    """The state of a chunk's pictures when the chunk was made.

    Attributes:
      stamp: stamp of the picture files (identity.py); "" if one could not be read.
      digest: digest of the contents of all pictures.
      changes: how often the chunk was made again because its pictures had changed.
    """

    stamp: str
    digest: str
    changes: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclasses.dataclass
class Manifest:
    """The content of dataset.json, or of a chunk's manifest.

    Attributes:
      settings: how the records were made; any JSON object.
      shards: the shards.
      bad_rows: rows that were left out; only in manifests of chunks (a data set has REJECTED).
      sources: the lists of edits; a shard refers to one by its index.
      pictures: state of the pictures; only in manifests of chunks, and from version 3 on.
      version: version of the file format.
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
        """The shards by latent size (h, w), sorted independently of their order in the file."""
        buckets: dict[tuple[int, int], list[ShardInfo]] = {}
        for shard in sorted(self.shards, key=lambda shard: (shard.latent_size, shard.file)):
            buckets.setdefault(shard.latent_size, []).append(shard)
        return buckets

    def to_json(self) -> str:
        """Serialize the manifest."""
        values = dataclasses.asdict(self)
        for fields, shard in zip(values["shards"], self.shards, strict=True):
            fields["check"] = _hash_shard_facts(shard)
        if self.pictures is None:
            del values["pictures"]
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _hash_shard_facts(shard: ShardInfo) -> str:
    """Hash what the manifest states about a shard's content, to detect edits by hand."""
    names = ("file", "latent_size", "records", "bytes", "longest_text", "negatives", "digest")
    facts = [getattr(shard, name) for name in names]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


class MissingError(UserError):
    """There is no manifest: the data set or chunk is not complete."""


def read_manifest(path: epath.PathLike) -> Manifest:
    """Read the manifest of a data set or a chunk.

    Args:
      path: the JSON file.

    Returns:
      The manifest.

    Raises:
      MissingError: the file does not exist.
      UserError: the file is not a valid manifest, or was written by a newer version.
    """
    path = epath.Path(path)
    try:
        size = file_size(path)
        if not is_file(path):  # a folder, or a pipe, on which reading would block
            raise UserError(f"{path} is no file; give another folder.")
        if size > MAX_MANIFEST_BYTES:
            raise UserError(f"{path} has {size} bytes, more than any manifest; {RECOVERY_ADVICE}.")
        data = path.read_bytes()
    except FileNotFoundError as e:
        raise MissingError(
            f"{path} is missing; give the folder that launch.precompute made, or run it to its end"
            f" with --output={path.parent}."
        ) from e
    except OSError as e:
        raise UserError(f"{path} cannot be read ({reason(e)}); check your access to it.") from e
    try:
        values = build(dict[str, Any], parse_json(data, "it"), "it")
    except UserError as e:
        raise _invalid_manifest_error(path, e) from e
    version = values.get("version", 1)
    if type(version) is int and version > VERSION:
        raise UserError(
            f"{path} was written by a newer version of step1x_jax (form {version}, this one reads"
            f" up to {VERSION}); upgrade step1x_jax."
        )
    try:
        return _build_manifest(values, build(int, version, "it", "version"))
    except UserError as e:
        raise _invalid_manifest_error(path, e) from e


def _invalid_manifest_error(path: epath.Path, e: UserError) -> UserError:
    return UserError(
        f"{path} is not as launch.precompute writes it ({str(e)[:300]}); {RECOVERY_ADVICE}."
    )


@dataclasses.dataclass
class _Fields:
    """The fields of the file, with shards as plain JSON objects."""

    settings: dict[str, Any]
    shards: list[dict[str, Any]]
    bad_rows: list[BadRow]
    sources: Annotated[list[SourceInfo], msgspec.Meta(min_length=1)] = dataclasses.field(
        default_factory=lambda: [SourceInfo()]
    )
    pictures: PictureState | None = None


def _build_manifest(values: dict[str, Any], version: int) -> Manifest:
    """Build a manifest.

    Raises:
      UserError: the values are not a valid manifest; the message contains only the reason.
    """
    known = [field.name for field in dataclasses.fields(_Fields)]
    fields = build(_Fields, {name: values[name] for name in known if name in values}, "it")
    weights = [source.weight for source in fields.sources if source.weight is not None]
    if weights and len(weights) < len(fields.sources):
        raise UserError(f"the sources have the weights {shown(weights)}")
    shards = [_build_shard(one, version, f"shards[{i}]") for i, one in enumerate(fields.shards)]
    if not all(shard.source < len(fields.sources) for shard in shards):
        raise UserError("a shard has a source that is not in the list")
    names = [shard.file for shard in shards]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{shown(twice)} is listed twice")
    return Manifest(fields.settings, shards, fields.bad_rows, fields.sources, fields.pictures)


def _build_shard(fields: dict[str, Any], version: int, place: str) -> ShardInfo:
    """Build a shard's entry; raises UserError whose message contains only the reason."""
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
    if version > 2 and check != _hash_shard_facts(shard):
        raise UserError(f"what it says of {shown(shard.file)} was changed")
    return shard


def records_fingerprint(manifest: Manifest) -> str:
    """Hash a data set's records and their order.

    The hash changes when records are added, removed, changed or reordered. It does not change when
    the folder is moved or copied, or when the weights of its sources change. Shards without a
    digest (manifests before version 3) are hashed by name and size.

    Args:
      manifest: manifest of the data set.

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
    """Whether two values of a setting are equal; models are compared by their files."""
    if name in MODEL_SETTINGS and isinstance(one, str) and isinstance(other, str):
        return same_files(one, other)
    return bool(one == other)


def write_manifest(path: epath.PathLike, manifest: Manifest) -> None:
    """Write a manifest; replaces an old one atomically.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(manifest.to_json().encode())


def write_dataset(
    folder: epath.PathLike, records: Iterable[EditRecord], settings: dict[str, Any] | None = None
) -> Manifest:
    """Write a complete data set of records made elsewhere.

    Args:
      folder: folder to write to.
      records: any number of records; only one is in memory at a time.
      settings: settings to store in the manifest.

    Returns:
      The manifest as written.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    with open_shard_writer(folder, "records") as shards:
        for record in records:
            shards.write(record)
    manifest = Manifest(settings or {}, shards.close())
    write_manifest(epath.Path(folder) / MANIFEST, manifest)
    return manifest
