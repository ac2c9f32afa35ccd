"""The record schema: one edit, ready to train on, as bytes.

A record is a small safetensors file. Its metadata holds the strings, `schema_version` among them;
its arrays are bfloat16. launch/guides/data.md has the table.
"""

import dataclasses
import json
from typing import Annotated, Any

import jax.numpy as jnp
import msgspec
import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.json_files import build, parse_json
from step1x_jax.weights.files.safetensors_io import parse_header

SCHEMA_VERSION = 1
LATENT_CHANNELS = 16
BF16 = np.dtype(jnp.bfloat16)
EXPONENT = 0x7F80  # bits of a bfloat16, all set in NaN and infinities alone

ARRAYS = ("text", "negative_text", "source", "target")
STRINGS = ("id", "instruction", "language", "task", "source_hash")
SIZES = ("source_size", "target_size")
LONGEST_REASON = 300  # characters; a damaged header may have any

_PIXELS = msgspec.Meta(ge=1, le=1_000_000)
Size = tuple[Annotated[int, _PIXELS], Annotated[int, _PIXELS]]


@dataclasses.dataclass
class EditRecord:
    """One edit. T text tokens, C width of the language model, h w latent positions.

    Attributes:
      id: names the edit for people.
      instruction: as given.
      language: of the instruction, such as "en"; "" if not known.
      task: kind of edit; "" if not known.
      source_size: (width, height) in pixels of the picture as it was found.
      target_size: the same of the edited picture.
      source_hash: sha256 of the source picture's file, hexadecimal.
      text: (T, C) bfloat16, embedding of the instruction with the source picture, unpadded.
      negative_text: the same for the empty instruction, (T', C); None if there is none.
      source: (h, w, 16) bfloat16 latents, scaled and shifted; h and w are even.
      target: the same of the edited picture.
    """

    id: str
    instruction: str
    language: str
    task: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    source_hash: str
    text: np.ndarray
    negative_text: np.ndarray | None
    source: np.ndarray
    target: np.ndarray

    def problem(self) -> str | None:
        """What is wrong with the record, or None."""
        arrays = self.arrays()
        for name, array in arrays.items():
            if array.dtype != BF16:
                return f"{name} is {array.dtype}, not bfloat16"
        texts = [array.shape for name, array in arrays.items() if "text" in name]
        if any(len(shape) != 2 or 0 in shape or shape[1] != texts[0][1] for shape in texts):
            return f"text has shapes {texts}, not (tokens, width)"
        latents = [self.source.shape, self.target.shape]
        h, w, c = self.source.shape if self.source.ndim == 3 else (0, 0, 0)
        if latents[0] != latents[1] or c != LATENT_CHANNELS or h < 2 or w < 2 or h % 2 or w % 2:
            return f"source and target have shapes {latents}, not twice the same (h, w, 16)"
        return self.not_finite()

    def not_finite(self) -> str | None:
        """Which of the arrays, bfloat16, has NaN or infinity, or None."""
        for name, array in self.arrays().items():
            bits = np.ascontiguousarray(array).view(np.uint16)
            if (bits & EXPONENT == EXPONENT).any():
                return f"{name} has numbers that are not finite"
        return None

    @property
    def longest_text(self) -> int:
        """Tokens of the longer one of its texts."""
        texts = (self.text, self.negative_text)
        return max(len(text) for text in texts if text is not None)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, without those that are None."""
        named = {name: getattr(self, name) for name in ARRAYS}
        return {name: array for name, array in named.items() if array is not None}


class DamagedRecordError(UserError):
    """A record that cannot be used; another can stand in for it."""

    def __init__(self, where: str, reason: object, way_on: str):
        why = str(reason)[:LONGEST_REASON]
        super().__init__(
            f"{where} is damaged ({why}); {way_on}, or allow such records with"
            " --config.data.max_bad_records=N."
        )


def encode_record(record: EditRecord) -> bytes:
    """A record as bytes: equal ones for equal records, in every process.

    Raises:
      ValueError: the record does not follow the schema.
    """
    problem = record.problem()
    if problem:
        raise ValueError(f"{record.id}: {problem}")
    metadata = {"schema_version": str(SCHEMA_VERSION)}
    metadata |= {name: getattr(record, name) for name in STRINGS}
    metadata |= {name: json.dumps(getattr(record, name)) for name in SIZES}
    # The safetensors package writes metadata in a random order; here equal records are equal bytes.
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, end = [], 0
    for name, array in sorted(record.arrays().items()):
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [begin, end]}
        parts.append(array.tobytes())
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def decode_record(data: bytes, where: str, way_on: str) -> EditRecord:
    """Bytes as a record, checked.

    Args:
      data: what `encode_record` gave.
      where: names file and record in errors.
      way_on: what to do about a damaged one, for errors.

    Returns:
      The record; its arrays are views of `data`.

    Raises:
      DamagedRecordError: not a record, or it does not follow the schema.
      UserError: written by a newer version.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        tensors, metadata = parse_header(data[8:start], len(data) - start)
        version = build(int, parse_json(metadata["schema_version"], "schema_version"), "it")
    except (ValueError, KeyError, UserError) as e:
        raise DamagedRecordError(where, e, way_on) from e
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{where} was written by a newer version of step1x_jax (schema {version}, this one"
            f" reads up to {SCHEMA_VERSION}); upgrade step1x_jax."
        )
    try:
        fields: dict[str, Any] = {"negative_text": None}
        fields |= {name: metadata[name] for name in STRINGS}
        fields |= {name: _size(metadata[name], name) for name in SIZES}
        body = memoryview(data)[start:]
        for name, info in tensors.items():
            array = np.frombuffer(body[info.begin : info.end], info.dtype)
            fields[name] = array.reshape(info.shape)
        record = EditRecord(**fields)
    except (ValueError, KeyError, TypeError, UserError) as e:
        raise DamagedRecordError(where, e, way_on) from e
    if problem := record.problem():
        raise DamagedRecordError(where, problem, way_on)
    return record


def _size(text: str, name: str) -> tuple[int, int]:
    """Raises UserError for anything but two numbers of pixels."""
    return build(Size, parse_json(text, name), name)
