"""OpenCV, imported here alone, so that its absence ends in one sentence."""

import importlib
from typing import Any

from step1x_jax.errors import UserError

try:
    cv2: Any = importlib.import_module("cv2")  # its own type stubs miss much of what it has
except ImportError as e:
    raise UserError(
        'embedded edits need OpenCV, which is missing here: pip install "step1x_jax[curation]"'
    ) from e
