"""Pictures as a judge gets them: how large, in which format.

Resizing is Pillow's default (bicubic), as in the published harnesses: area512 since mid-2025,
source_size of April 2025, long1024 of GEditBench v2.
"""

import hashlib
import io
import math

from step1x_jax.conditioning.images import decode_image
from step1x_jax.evaluation.judging.exchange import Picture
from step1x_jax.evaluation.judging.presets import JudgePreset, Protocol

AREA = 512 * 512  # pixels
LONGEST_SIDE = 1024  # pixels


def sent_size(
    size: tuple[int, int], protocol: Protocol, source: tuple[int, int]
) -> tuple[int, int]:
    """The size in which a picture is sent.

    Args:
      size: (width, height) of the picture, in pixels.
      protocol: see `Protocol`.
      source: the size of the source picture of the same sample; source_size gives all pictures it.

    Returns:
      (width, height) in pixels.
    """
    width, height = size
    if protocol == "source_size":
        return source
    if protocol == "area512":
        ratio = width / height
        exact = math.sqrt(AREA * ratio)
        return max(int(exact), 1), max(int(exact / ratio), 1)
    scale = min(LONGEST_SIDE / max(size), 1)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def picture_size(data: bytes, name: str) -> tuple[int, int]:
    """The size of a picture that can be decoded, upright: (width, height) in pixels.

    Args:
      data: of its file.
      name: of the picture, in error messages.

    Raises:
      UserError: it cannot be decoded.
    """
    return decode_image(data, name).size


def picture_to_send(data: bytes, name: str, size: tuple[int, int], preset: JudgePreset) -> Picture:
    """A picture as a part of a question; it is resized and written when it is really sent.

    Args:
      data: of its file, which can be decoded.
      name: of the picture, in error messages.
      size: in which it is sent, (width, height) in pixels.
      preset: says the format.
    """
    options = {"quality": preset.jpeg_quality} if preset.picture_format == "JPEG" else {}
    how = f"{size[0]}x{size[1]} {preset.picture_format} {options}"

    def encode() -> bytes:
        stream = io.BytesIO()
        image = decode_image(data, name).resize(size)
        image.save(stream, preset.picture_format, **options)
        return stream.getvalue()

    return Picture(f"{hashlib.sha256(data).hexdigest()} {how}", encode, size[0] * size[1])


def original(data: bytes) -> Picture:
    """A picture as its file is, for judges in this process."""
    return Picture(hashlib.sha256(data).hexdigest(), lambda: data)
