"""The record schema: one precomputed edit as bytes.

A record is a small safetensors file. Its metadata holds the strings, including `schema_version`;
its arrays are bfloat16. The schema is documented in launch/guides/data.md.
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
EXPONENT_BITS = 0x7F80  # exponent bits of a bfloat16, all set only in NaN and infinities

ARRAYS = ("text", "negative_text", "source", "target")
STRINGS = ("id", "instruction", "language", "task", "source_hash")
SIZES = ("source_size", "target_size")
MAX_REASON_LENGTH = 300  # characters; a damaged header may give a reason of any length

_PIXELS = msgspec.Meta(ge=1, le=1_000_000)
Size = tuple[Annotated[int, _PIXELS], Annotated[int, _PIXELS]]


@dataclasses.dataclass
class EditRecord:
    """One edit. T text tokens, C width of the language model, (h, w) latent size.

    Attributes:
      id: identifies the edit in messages.
      instruction: the instruction as given.
      language: language of the instruction, such as "en"; "" if unknown.
      task: kind of edit; "" if unknown.
      source_size: (width, height) in pixels of the source picture's file.
      target_size: (width, height) in pixels of the target picture's file.
      source_hash: sha256 of the source picture's file, hexadecimal.
      text: (T, C) bfloat16 embedding of the instruction with the source picture, unpadded.
      negative_text: (T', C) bfloat16 embedding of the empty instruction with the source picture,
        unpadded; None if there is none.
      source: (h, w, 16) bfloat16 latents of the source, scaled and shifted; h and w are even.
      target: (h, w, 16) bfloat16 latents of the target, likewise.
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

    def find_problem(self) -> str | None:
        """Return why the record violates the schema, or None."""
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
            return f"source and target have shapes {latents}, not both the same (h, w, 16)"
        return self.find_non_finite()

    def find_non_finite(self) -> str | None:
        """Return which of the bfloat16 arrays contains NaN or infinity, or None."""
        for name, array in self.arrays().items():
            bits = np.ascontiguousarray(array).view(np.uint16)
            if (bits & EXPONENT_BITS == EXPONENT_BITS).any():
                return f"{name} has numbers that are not finite"
        return None

    @property
    def longest_text(self) -> int:
        """Number of tokens of the longer embedding."""
        texts = (self.text, self.negative_text)
        return max(len(text) for text in texts if text is not None)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are not None, by name."""
        named = {name: getattr(self, name) for name in ARRAYS}
        return {name: array for name, array in named.items() if array is not None}


class DamagedRecordError(UserError):
    """A record that cannot be used; it can be replaced by another."""

    def __init__(self, where: str, reason: object, advice: str):
        why = str(reason)[:MAX_REASON_LENGTH]
        super().__init__(
            f"{where} is damaged ({why}); {advice}, or allow such records with"
            " --config.data.max_bad_records=N."
        )


def encode_record(record: EditRecord) -> bytes:
    """Serialize a record; deterministic across processes.

    Raises:
      ValueError: the record violates the schema.
    """
    problem = record.find_problem()
    if problem:
        raise ValueError(f"{record.id}: {problem}")
    metadata = {"schema_version": str(SCHEMA_VERSION)}
    metadata |= {name: getattr(record, name) for name in STRINGS}
    metadata |= {name: json.dumps(getattr(record, name)) for name in SIZES}
    # The safetensors package writes metadata in random order; this writer is deterministic.
    header: dict[str, Any] = {"__metadata__": metadata}
    buffers, end = [], 0
    for name, array in sorted(record.arrays().items()):
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [begin, end]}
        buffers.append(array.tobytes())
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *buffers])


def decode_record(data: bytes, where: str, advice: str) -> EditRecord:
    """Deserialize and check a record.

    Args:
      data: the bytes of `encode_record`.
      where: names file and record in errors.
      advice: says what to do about a damaged record, for errors.

    Returns:
      The record; its arrays are views of `data`.

    Raises:
      DamagedRecordError: the bytes are not a record, or it violates the schema.
      UserError: the record was written by a newer version.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        tensors, metadata = parse_header(data[8:start], len(data) - start)
        version = build(int, parse_json(metadata["schema_version"], "schema_version"), "it")
    except (ValueError, KeyError, UserError) as e:
        raise DamagedRecordError(where, e, advice) from e
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{where} was written by a newer version of step1x_jax (schema {version}, this one"
            f" reads up to {SCHEMA_VERSION}); upgrade step1x_jax."
        )
    try:
        fields: dict[str, Any] = {"negative_text": None}
        fields |= {name: metadata[name] for name in STRINGS}
        fields |= {name: _parse_size(metadata[name], name) for name in SIZES}
        body = memoryview(data)[start:]
        for name, info in tensors.items():
            array = np.frombuffer(body[info.begin : info.end], info.dtype)
            fields[name] = array.reshape(info.shape)
        record = EditRecord(**fields)
    except (ValueError, KeyError, TypeError, UserError) as e:
        raise DamagedRecordError(where, e, advice) from e
    if problem := record.find_problem():
        raise DamagedRecordError(where, problem, advice)
    return record


def _parse_size(text: str, name: str) -> tuple[int, int]:
    """Parse (width, height) in pixels; raises UserError for anything else."""
    return build(Size, parse_json(text, name), name)
