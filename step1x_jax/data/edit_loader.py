"""Loads edits: reads, decodes and crops their pictures and tokenizes their texts, on the host."""

import dataclasses
import hashlib

import numpy as np

from step1x_jax.conditioning.encoder import QwenEncoder
from step1x_jax.conditioning.images import decode_image
from step1x_jax.conditioning.processor import PicturePatches
from step1x_jax.data.buckets import bucket_sizes, fit, kept_part, nearest_bucket
from step1x_jax.data.identity import read_content
from step1x_jax.data.manifest import BadRow
from step1x_jax.data.sources import Triplet
from step1x_jax.errors import UserError


@dataclasses.dataclass
class LoadedEdit:
    """An edit as the models take it.

    Attributes:
      triplet: the row that it is from.
      source: (H, W, 3) uint8, scaled and cut to its bucket; so is the target.
      target: (H, W, 3) uint8.
      source_size: (width, height) of the source's file; so is the target's.
      target_size: (width, height).
      source_hash: digest of the source's file.
      picture: the source as the language model sees it.
      prompt: token ids of the instruction with the picture.
      negative_prompt: those of the empty instruction; None: the record gets none.
    """

    triplet: Triplet
    source: np.ndarray
    target: np.ndarray
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    source_hash: str
    picture: PicturePatches
    prompt: list[int]
    negative_prompt: list[int] | None


@dataclasses.dataclass
class LoadedRow:
    """What became of a row.

    Attributes:
      edit: the edit, or why it cannot be used.
      digests: of its pictures' contents, see identity.py; also of those that cannot be used.
    """

    edit: LoadedEdit | BadRow
    digests: list[str]


class EditLoader:
    """Loads edits; any number of threads may do so at once."""

    def __init__(self, encoder: QwenEncoder, size: int, *, negatives: float, min_kept: float):
        """Takes what decides how edits are loaded.

        Args:
          encoder: whose prompt and picture processor are used; the language model is not.
          size: size level of the buckets.
          negatives: fraction of the edits that get a negative prompt.
          min_kept: smallest part of each picture that its crop may leave.
        """
        self._encoder = encoder
        self._buckets = bucket_sizes(size)
        self._negatives = negatives
        self._min_kept = min_kept

    def load(self, triplet: Triplet) -> LoadedRow:
        """Reads a row's pictures and prepares them; a fault of the row is returned, not raised."""
        source, source_digest = read_content(triplet.source_path)
        target, target_digest = read_content(triplet.target_path)
        edit: LoadedEdit | BadRow
        try:
            edit = self._prepare(triplet, source, target, source_digest)
        except UserError as e:
            edit = BadRow(triplet.row, str(e))
        return LoadedRow(edit, [source_digest, target_digest])

    def _prepare(
        self,
        triplet: Triplet,
        source_file: bytes | UserError,
        target_file: bytes | UserError,
        source_hash: str,
    ) -> LoadedEdit:
        """An edit from its pictures' files; raises UserError if it cannot be used."""
        for content in (source_file, target_file):
            if isinstance(content, UserError):
                raise content
        assert isinstance(source_file, bytes)
        assert isinstance(target_file, bytes)
        source = decode_image(source_file, triplet.source_path)
        target = decode_image(target_file, triplet.target_path)
        bucket = nearest_bucket(*source.size, self._buckets)
        for name, image in (("source", source), ("target", target)):
            if (kept := kept_part(image.size, bucket)) < self._min_kept:
                raise UserError(
                    f"of its {name}, {image.width}x{image.height} pixels, {kept:.0%} would be kept"
                    f" in {bucket[0]}x{bucket[1]}, the shape for its source of"
                    f" {source.width}x{source.height}; see whether the pictures belong together,"
                    " or lower --min_kept."
                )
        fitted = fit(source, bucket)
        picture = self._encoder.read(fitted)
        negative = draw(triplet) < self._negatives
        return LoadedEdit(
            triplet=triplet,
            source=np.asarray(fitted),
            target=np.asarray(fit(target, bucket)),
            source_size=source.size,
            target_size=target.size,
            source_hash=source_hash,
            picture=picture,
            prompt=self._encoder.tokenize(picture, triplet.instruction),
            negative_prompt=self._encoder.tokenize(picture, "") if negative else None,
        )


def draw(triplet: Triplet) -> float:
    """A number in [0, 1) that belongs to an edit: the same in every run, unlike its neighbours'."""
    digest = hashlib.sha256(f"{triplet.row} {triplet.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
