"""Embeddings kept on disk, for one who edits the same picture again and again.

With what is there already, the language model (15 GB in the release) is not even loaded.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging
from PIL import Image

from step1x_jax.conditioning.encoder import EncoderConfig, TextEncoder
from step1x_jax.errors import UserError
from step1x_jax.files import fingerprint, is_remote
from step1x_jax.weights.files.safetensors_io import SafetensorsFile, write_safetensors
from step1x_jax.weights.readers import InMemory

VERSION = 2  # of what an encoder makes of the same input; to be raised when that changes
LIMIT = 2 << 30  # bytes; the release's embedding of an edit has about 2.5 million
SUFFIX = ".safetensors"


class CachedEncoder:
    """A TextEncoder that asks another one only for what it has not seen.

    An entry is named by a hash of the picture's pixels, the instruction, the language model's files
    and the settings. Entries that were not used for longest make room when there are too many.
    """

    def __init__(
        self,
        config: EncoderConfig,
        load: Callable[[EncoderConfig], TextEncoder],
        folder: str,
        limit: int = LIMIT,
    ):
        """Nothing is loaded yet.

        Args:
          config: of the encoder.
          load: makes it, when the first embedding is missing.
          folder: of the entries, on a local disk; made when needed.
          limit: bytes that they may take.

        Raises:
          UserError: the model's folder does not exist, or the entries' one is on an object store.
        """
        if is_remote(folder):
            raise UserError(f"--cache={folder} is on an object store; give a folder on a disk.")
        self._config = config
        self._load = load
        self._encoder: TextEncoder | None = None
        self._folder = pathlib.Path(folder).expanduser()
        self._limit = limit
        settings = vars(config) | {"path": fingerprint(config.path), "version": VERSION}
        self._settings = json.dumps(settings, sort_keys=True)

    def encode(
        self, images: Sequence[Image.Image], instructions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `TextEncoder.encode`."""
        examples = list(zip(images, instructions, strict=True))
        keys = [self._key(*example) for example in examples]
        texts = {key: text for key in set(keys) if (text := self._read(key)) is not None}
        missing = {k: e for k, e in zip(keys, examples, strict=True) if k not in texts}
        if missing:
            self._encoder = self._encoder or self._load(self._config)
            new, new_lengths = self._encoder.encode(*map(list, zip(*missing.values(), strict=True)))
            for key, states, length in zip(missing, np.asarray(new), new_lengths, strict=True):
                texts[key] = states[:length]
                self._write(key, texts[key])
            self._make_room()
        found = [texts[key] for key in keys]
        lengths = np.array([len(text) for text in found], np.int32)
        limit, (_, width) = self._config.text_length, found[0].shape
        embeddings = np.zeros((len(found), limit, width), found[0].dtype)
        for row, text in zip(embeddings, found, strict=True):
            row[: len(text)] = text
        return embeddings, lengths

    def _key(self, image: Image.Image, instruction: str) -> str:
        picture = image.convert("RGB")
        digest = hashlib.sha256(picture.tobytes())
        digest.update(json.dumps([picture.size, instruction, self._settings]).encode())
        return digest.hexdigest()

    def _read(self, key: str) -> np.ndarray | None:
        path = self._folder / (key + SUFFIX)
        if not os.path.isfile(path):
            return None
        try:
            text = SafetensorsFile(path).read("text")
            if text.ndim != 2 or not 0 < len(text) <= self._config.text_length:
                raise UserError(f"{path} holds no embedding")
        except (UserError, KeyError, OSError) as e:
            logging.warning("%s; it is made again.", e)
            return None
        with contextlib.suppress(OSError):  # where others' entries may only be read
            path.touch()  # used just now
        return text

    def _write(self, key: str, text: np.ndarray) -> None:
        try:
            write_safetensors(self._folder / (key + SUFFIX), InMemory({"text": text}))
        except UserError as e:  # the edit does not depend on it
            logging.warning("Nothing is kept of what was encoded: %s", e)

    def _make_room(self) -> None:
        """Remove the entries that were not used for longest."""
        entries = []
        for file in self._folder.glob("*" + SUFFIX):
            with contextlib.suppress(OSError):  # another process has removed it just now
                entries.append((file.stat(), file))
        total = sum(stat.st_size for stat, _ in entries)
        for stat, file in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self._limit:
                break
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            total -= stat.st_size
