"""Whether what a model gives is numbers, before it becomes a black picture."""

from typing import Any

import numpy as np

from step1x_jax.errors import UserError


def check_finite(values: Any, what: str, advice: str) -> None:
    """Raise UserError if an array has NaN or infinity."""
    if not np.isfinite(np.asarray(values, np.float32)).all():
        raise UserError(f"{what} has values that are not finite; try {advice}.")
