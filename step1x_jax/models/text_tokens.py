"""How many text tokens the model computes."""

import numpy as np

MULTIPLE = 64  # a few shapes for all texts, so that few programs are compiled


def text_bucket(lengths: np.typing.ArrayLike, text_length: int) -> int:
    """Return the number of text tokens to compute for texts of these lengths.

    Text may be cut to it: the result of `Step1XEdit` stays the same within rounding.

    Args:
      lengths: number of valid tokens of each text.
      text_length: that of the model's config; no length is greater.

    Returns:
      `text_length`, or a smaller multiple of MULTIPLE that leaves at least one padded token for
      every text, because one stands for all of them.
    """
    longest = int(np.max(lengths))
    return min(-(-(longest + 1) // MULTIPLE) * MULTIPLE, text_length)
