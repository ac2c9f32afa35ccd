"""What process 0 of a run does for all of them."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from step1x_jax.errors import UserError


def on_first_process(do: Callable[[], object]) -> None:
    """Calls a function on process 0; a UserError of it ends all processes.

    Raises:
      UserError: that of process 0, or on the others a sentence that names it.
    """
    error: UserError | None = None
    if jax.process_index() == 0:
        try:
            do()
        except UserError as e:
            error = e
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(error is not None)).any()
        if failed and error is None:
            error = UserError("process 0 could not go on; its own sentence says why.")
    if error is not None:
        raise error
