"""The argument of `on_step`."""

import dataclasses

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of the sampler that has been made.

    Attributes:
      number: of the step, from 1 on, counted over the whole call.
      total: steps of the whole call.
      results: which of the pictures that the call returns are being made, as indices.
      previews: what each of these would be if the velocity stayed as it is, at the size at which
        the model works; None at a step without previews.
    """

    number: int
    total: int
    results: tuple[int, ...]
    previews: list[Image.Image] | None = None


def expected(before: np.ndarray, after: np.ndarray, t: float, t_next: float) -> np.ndarray:
    """The latents at time 0 on a straight line through those at two times, t > t_next."""
    velocity = (after - before) / (t_next - t)
    return after - t_next * velocity
