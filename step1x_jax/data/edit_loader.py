"""Loads edits on the host: reads, decodes and crops pictures, and tokenizes texts."""

import dataclasses
import hashlib

import numpy as np

from step1x_jax.conditioning.encoder import QwenEncoder
from step1x_jax.conditioning.images import decode_image
from step1x_jax.conditioning.processor import PicturePatches
from step1x_jax.data.buckets import (
    compute_kept_fraction,
    find_nearest_bucket,
    list_bucket_sizes,
    scale_and_crop,
)
from step1x_jax.data.identity import read_content
from step1x_jax.data.manifest import BadRow
from step1x_jax.data.sources import Triplet
from step1x_jax.errors import UserError


@dataclasses.dataclass
class LoadedEdit:
    """An edit as input of the models.

    Attributes:
      triplet: the row of the edit.
      source: (H, W, 3) uint8, the source picture scaled and cropped to its bucket.
      target: (H, W, 3) uint8, the target picture likewise.
      source_size: (width, height) in pixels of the source's file.
      target_size: (width, height) in pixels of the target's file.
      source_hash: sha256 of the source's file, hexadecimal.
      picture: patches of the cropped source, the language model's input.
      prompt: token ids of the instruction with the picture.
      negative_prompt: token ids of the empty instruction with the picture; None: the record gets no
        negative embedding.
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
    """The outcome of loading a row.

    Attributes:
      edit: the edit, or why it cannot be used.
      digests: digests of its two pictures (identity.py), also if the edit cannot be used.
    """

    edit: LoadedEdit | BadRow
    digests: list[str]


class EditLoader:
    """Loads edits; thread-safe."""

    def __init__(self, encoder: QwenEncoder, size: int, *, negatives: float, min_kept: float):
        """Store the settings.

        Args:
          encoder: its prompt and picture processor are used, its language model is not.
          size: size level of the buckets, in pixels (buckets.py).
          negatives: fraction of the edits that get a negative prompt, 0 to 1.
          min_kept: smallest fraction of each picture that its crop must keep, 0 to 1.
        """
        self._encoder = encoder
        self._buckets = list_bucket_sizes(size)
        self._negatives = negatives
        self._min_kept = min_kept

    def load(self, triplet: Triplet) -> LoadedRow:
        """Load a row; a problem with the row is returned as a BadRow, not raised."""
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
        """Make an edit from the bytes of its pictures' files.

        Raises:
          UserError: the edit cannot be used.
        """
        for content in (source_file, target_file):
            if isinstance(content, UserError):
                raise content
        assert isinstance(source_file, bytes)
        assert isinstance(target_file, bytes)
        source = decode_image(source_file, triplet.source_path)
        target = decode_image(target_file, triplet.target_path)
        bucket = find_nearest_bucket(*source.size, self._buckets)
        for name, image in (("source", source), ("target", target)):
            if (kept := compute_kept_fraction(image.size, bucket)) < self._min_kept:
                raise UserError(
                    f"of its {name}, {image.width}x{image.height} pixels, {kept:.0%} would be kept"
                    f" in {bucket[0]}x{bucket[1]}, the shape for its source of"
                    f" {source.width}x{source.height}; check whether the pictures belong together,"
                    " or lower --min_kept."
                )
        fitted = scale_and_crop(source, bucket)
        picture = self._encoder.read(fitted)
        negative = draw_uniform(triplet) < self._negatives
        return LoadedEdit(
            triplet=triplet,
            source=np.asarray(fitted),
            target=np.asarray(scale_and_crop(target, bucket)),
            source_size=source.size,
            target_size=target.size,
            source_hash=source_hash,
            picture=picture,
            prompt=self._encoder.tokenize(picture, triplet.instruction),
            negative_prompt=self._encoder.tokenize(picture, "") if negative else None,
        )


def draw_uniform(triplet: Triplet) -> float:
    """Return a pseudorandom number in [0, 1), a hash of the edit: the same in every run."""
    digest = hashlib.sha256(f"{triplet.row} {triplet.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
