"""Inputs of the sampler made from pictures and instructions, kept for the next edit.

Each picture and each of its texts is encoded alone: so an edit is the same to the bit whether
something was kept or not, and whatever other edits are in the batch.
"""

import collections
import hashlib
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from step1x_jax.conditioning.encoder import TextEncoder
from step1x_jax.editing.finite import check_finite

PICTURES = 16  # whose latents are kept: 1 MiB each at 1024 px
TEXTS = 64  # embeddings that are kept: 4.4 MiB each in the release, in bfloat16

Value = TypeVar("Value")
Text = tuple[np.ndarray, np.ndarray]  # embeddings (1, T, C), zero past their length (1,) int32


class Kept(Generic[Value]):
    """The results that were used last, by key."""

    def __init__(self, most: int):
        self._most = most
        self._values: collections.OrderedDict[Hashable, Value] = collections.OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key; it is made if it is not there."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return self._values[key]


class Conditioner:
    """Encodes pictures and texts that were not encoded lately."""

    def __init__(self, encoder: TextEncoder, encode: Callable[[Image.Image], np.ndarray]):
        """Take what encodes.

        Args:
          encoder: of pictures with texts.
          encode: one picture to latents (h, w, 16).
        """
        self._encoder = encoder
        self._encode = encode
        self._latents: Kept[np.ndarray] = Kept(PICTURES)
        self._texts: Kept[Text] = Kept(TEXTS)

    def text(self, picture: Image.Image, text: str) -> Text:
        """Embeddings (1, T, C) of a text together with its picture, and their length (1,)."""
        return self._texts.get((_digest(picture), text), lambda: self._read(picture, text))

    def latents(self, picture: Image.Image) -> np.ndarray:
        """A picture's latents (h, w, 16) float32."""
        return self._latents.get(_digest(picture), lambda: self._encode(picture))

    def _read(self, picture: Image.Image, text: str) -> Text:
        embeddings, lengths = self._encoder.encode([picture], [text])
        check_finite(
            embeddings, "what the language model makes of the instruction", "other weights"
        )
        return np.asarray(embeddings), np.asarray(lengths)


def _digest(picture: Image.Image) -> bytes:
    digest = hashlib.sha256(repr((picture.size, picture.mode)).encode())
    digest.update(picture.tobytes())
    return digest.digest()
