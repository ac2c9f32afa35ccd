"""OpenCV, imported here alone, so that its absence ends in one sentence."""

from step1x_jax.errors import UserError

try:
    import cv2
except ImportError as e:
    raise UserError(
        'embedded edits need OpenCV, which is missing here: pip install "step1x_jax[curation]"'
    ) from e

__all__ = ["cv2"]
