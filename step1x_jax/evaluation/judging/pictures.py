"""Pictures as a judge gets them: the sizes of published harnesses.

area512 is since mid-2025, source_size of April 2025, long1024 of GEditBench v2.
"""

import hashlib
import math
from typing import NamedTuple

from step1x_jax.asking.exchange import QuestionPicture
from step1x_jax.asking.pictures import picture_size, shrunk_size
from step1x_jax.evaluation.judging.presets import Protocol

AREA = 512 * 512  # pixels


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
    if protocol == "source_size":
        return source
    if protocol == "area512":
        width, height = size
        ratio = width / height
        exact = math.sqrt(AREA * ratio)
        return max(int(exact), 1), max(int(exact / ratio), 1)
    return shrunk_size(size)


class Decodable(NamedTuple):
    """A picture's file that has been decoded once, and its size (width, height) in pixels."""

    data: bytes
    size: tuple[int, int]


def check_decodable(data: bytes, name: str) -> Decodable:
    """A picture's file with its size.

    Args:
      data: of the file.
      name: of the picture, in error messages.

    Raises:
      UserError: it cannot be decoded.
    """
    return Decodable(data, picture_size(data, name))


def original(data: bytes) -> QuestionPicture:
    """A picture as its file is, for judges in this process."""
    return QuestionPicture(hashlib.sha256(data).hexdigest(), lambda: data)
