"""Pictures as a model gets them: how large, in which format.

Resizing is Pillow's default (bicubic), as in the published harnesses of benchmarks.
"""

import hashlib
import io

from step1x_jax.asking.exchange import QuestionPicture
from step1x_jax.asking.preset import ChatPreset
from step1x_jax.conditioning.images import decode_image

LONGEST_SIDE = 1024  # pixels


def shrunk_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size (width, height) in which no side has more than LONGEST_SIDE pixels."""
    width, height = size
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


def picture_to_send(
    data: bytes, name: str, size: tuple[int, int], preset: ChatPreset
) -> QuestionPicture:
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

    return QuestionPicture(f"{hashlib.sha256(data).hexdigest()} {how}", encode, size[0] * size[1])
