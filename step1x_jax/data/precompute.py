"""Triplets to shards: everything that training would otherwise compute again at every step.

The work is cut into parts. A part's shards and then its manifest get their names when the part is
complete, so that a second run finds what is done; dataset.json is written when all parts are there.
The name of a part holds a hash of its rows: changed rows make a new part.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.conditioning.encoder import Encoder, EncoderConfig
from step1x_jax.conditioning.images import decode_image, open_image, read_image_bytes, to_array
from step1x_jax.data.buckets import bucket_sizes, fit, nearest_bucket
from step1x_jax.data.manifest import MANIFEST, BadRow, Manifest, read_manifest, write_manifest
from step1x_jax.data.records import EditRecord
from step1x_jax.data.shards import ShardWriter, check_size, writing_shards
from step1x_jax.data.sources import Triplet
from step1x_jax.errors import UserError
from step1x_jax.files import fingerprint, replacing

# (B, H, W, 3) float32 in [-1, 1] -> latents (B, H/8, W/8, 16); B is always the batch size.
EncodeImages = Callable[[np.ndarray], np.ndarray]
LoadModels = Callable[[], tuple[Encoder, EncodeImages]]
OnRow = Callable[[BadRow | None], None]


def make_settings(size: int, encoder: EncoderConfig, autoencoder: epath.PathLike) -> dict[str, Any]:
    """What decides the records' content: noted in the manifest, of which a data set has one.

    Args:
      size: size level, see buckets.py.
      encoder: which counts with all its fields, its model by `fingerprint`.
      autoencoder: its file or folder, counts by `fingerprint`.

    Raises:
      UserError: a model is not there.
    """
    reading = dataclasses.asdict(encoder)
    return {
        "size": size,
        "encoder": fingerprint(reading.pop("path")),
        "autoencoder": fingerprint(autoencoder),
        "encoder_dtype": reading.pop("dtype"),
        **reading,
    }


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of rows that is done as a whole. `name` holds its place and a hash of its rows."""

    name: str
    triplets: Sequence[Triplet]


def split_parts(triplets: Sequence[Triplet], part_size: int) -> list[Part]:
    """Cuts rows into parts of `part_size`, the last one shorter."""
    starts = range(0, len(triplets), part_size)
    rows = [triplets[start : start + part_size] for start in starts]
    return [Part(f"part-{i:05d}-{_content_hash(r)}", r) for i, r in enumerate(rows)]


def _content_hash(triplets: Sequence[Triplet]) -> str:
    """Of the rows and their pictures' sizes: a picture that was mended counts as new."""
    digest = hashlib.sha256()
    for triplet in triplets:
        row = dataclasses.asdict(triplet)
        del row["folder"]  # the list and its pictures may be moved together
        sizes = _length(triplet.source_path), _length(triplet.target_path)
        digest.update(json.dumps([row, sizes]).encode())
    return digest.hexdigest()[:12]


def _length(path: str) -> int:
    try:
        return epath.Path(path).stat().length
    except (OSError, ValueError):
        return -1


def precompute(
    triplets: Sequence[Triplet],
    output: epath.PathLike,
    settings: dict[str, Any],
    load_models: LoadModels,
    *,
    bad_rows: Sequence[BadRow] = (),
    part_size: int = 1024,
    batch_size: int = 8,
    on_row: OnRow = lambda bad: None,
) -> Manifest:
    """Makes a data set, or finishes one.

    Args:
      triplets: the edits.
      output: folder to write to, local or mounted.
      settings: see `make_settings`; noted, and compared with what the folder was made with.
      load_models: gives encoder and autoencoder; not called if everything is done already.
      bad_rows: rows of the input that were none; noted.
      part_size: edits in a part.
      batch_size: edits that go through the models at once.
      on_row: called once per edit, with its fault if it has one.

    Returns:
      The manifest. Edits that could not be used are in its bad_rows.

    Raises:
      UserError: the folder was made with other settings, or the disk is full.
    """
    output = epath.Path(output)
    check_settings(output, settings)
    for leftover in output.glob(".*.tmp"):
        leftover.unlink()
    parts = split_parts(triplets, part_size)
    maker: PartMaker | None = None
    done = []
    for part in parts:
        manifest = finished(output, part)
        if manifest is None:
            maker = maker or PartMaker(output, settings, *load_models(), batch_size)
            manifest = maker.make(part, on_row)
        else:
            faults = {bad.row: bad for bad in manifest.bad_rows}
            for triplet in part.triplets:
                on_row(faults.get(triplet.row))
        done.append(manifest)
    manifest = Manifest(
        settings=settings,
        shards=[shard for part in done for shard in part.shards],
        bad_rows=[*bad_rows, *(row for part in done for row in part.bad_rows)],
    )
    write_manifest(output / MANIFEST, manifest)
    return manifest


def check_settings(output: epath.Path, settings: dict[str, Any]) -> None:
    """Raises UserError, naming a setting, if what lies in a folder was made with other ones."""
    for path in sorted([*output.glob("part-*.json"), *output.glob(MANIFEST)]):
        before = read_manifest(path).settings
        for name, value in settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"{output} was made with {name}={before.get(name)}, now it is {value}; give"
                    " another --output, or remove that folder to start again."
                )


def finished(output: epath.Path, part: Part) -> Manifest | None:
    """The manifest of a part if all of it is there."""
    path = output / f"{part.name}.json"
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    try:
        for shard in manifest.shards:
            check_size(output / shard.file, shard)
    except UserError:
        return None
    return manifest


# Latents and negative embeddings of the latest sources, by hash: edits of one picture usually stand
# next to each other in a list, and 64 pictures of the release's size are about 300 MB.
Known = dict[str, tuple[np.ndarray, np.ndarray]]
REMEMBERED = 64


@dataclasses.dataclass
class _Loaded:
    """An edit whose pictures could be read, cut to its bucket."""

    triplet: Triplet
    source: Image.Image
    target: Image.Image
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    source_hash: str


class PartMaker:
    """Takes parts through the models and onto disk."""

    def __init__(
        self,
        output: epath.Path,
        settings: dict[str, Any],
        encoder: Encoder,
        encode_images: EncodeImages,
        batch_size: int,
    ):
        self._output = output
        self._settings = settings
        self._encoder = encoder
        self._encode_images = encode_images
        self._batch_size = batch_size
        self._buckets = bucket_sizes(settings["size"])

    def make(self, part: Part, on_row: OnRow) -> Manifest:
        """Makes one part; all of it gets its names at the end, its manifest last.

        Raises:
          UserError: the disk is full.
        """
        manifest = Manifest(self._settings, [])
        known: Known = {}
        waiting: dict[tuple[int, int], list[_Loaded]] = {}  # by bucket
        with (
            replacing(self._output / f"{part.name}.json") as manifest_file,
            writing_shards(self._output, part.name) as shards,
        ):
            for triplet in part.triplets:
                try:
                    edit = self._load(triplet)
                except UserError as e:
                    manifest.bad_rows.append(BadRow(triplet.row, str(e)))
                    on_row(manifest.bad_rows[-1])
                    continue
                batch = waiting.setdefault(edit.source.size, [])
                batch.append(edit)
                if len(batch) == self._batch_size:
                    self._write(waiting.pop(edit.source.size), known, shards)
                on_row(None)
            for batch in waiting.values():
                self._write(batch, known, shards)
            manifest.shards = shards.close()
            manifest_file.write_text(manifest.to_json())
        return manifest

    def _load(self, triplet: Triplet) -> _Loaded:
        data = read_image_bytes(triplet.source_path)
        source = decode_image(data, triplet.source_path)
        target = open_image(triplet.target_path)
        bucket = nearest_bucket(*source.size, self._buckets)
        return _Loaded(
            triplet,
            fit(source, bucket),
            fit(target, bucket),
            source.size,
            target.size,
            hashlib.sha256(data).hexdigest(),
        )

    def _write(self, edits: list[_Loaded], known: Known, shards: ShardWriter) -> None:
        """Encodes edits of one bucket, at most a batch, and writes their records."""
        targets = self._latents([edit.target for edit in edits])
        texts = self._texts([(edit.source, edit.triplet.instruction) for edit in edits])
        new = {edit.source_hash: edit.source for edit in edits if edit.source_hash not in known}
        if new:
            sources = list(new.values())
            negatives = self._texts([(source, "") for source in sources])
            known |= zip(new, zip(self._latents(sources), negatives, strict=True), strict=True)
        for edit, target, text in zip(edits, targets, texts, strict=True):
            source, negative = known[edit.source_hash]
            record = EditRecord(
                id=edit.triplet.id,
                instruction=edit.triplet.instruction,
                language=edit.triplet.language,
                task=edit.triplet.task,
                source_size=edit.source_size,
                target_size=edit.target_size,
                source_hash=edit.source_hash,
                text=text,
                negative_text=negative,
                source=source,
                target=target,
            )
            shards.write(record)
        for source_hash in list(known)[:-REMEMBERED]:
            del known[source_hash]

    def _latents(self, images: list[Image.Image]) -> np.ndarray:
        """(B, h, w, 16) bfloat16; the batch is filled up so that one program serves a bucket."""
        filled = images + images[-1:] * (self._batch_size - len(images))
        latents = self._encode_images(np.stack([to_array(image) for image in filled]))
        return np.asarray(latents)[: len(images)].astype(jnp.bfloat16)

    def _texts(self, examples: list[tuple[Image.Image, str]]) -> list[np.ndarray]:
        """(T, C) bfloat16 each, unpadded."""
        embeddings, lengths = self._encoder.encode(*map(list, zip(*examples, strict=True)))
        return [
            text[:length].astype(jnp.bfloat16)
            for text, length in zip(embeddings, lengths, strict=True)
        ]
