"""Work that process 0 does on behalf of all processes of a run."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from step1x_jax.errors import UserError


def run_on_first_process(do: Callable[[], object]) -> None:
    """Call a function on process 0. If it raises a UserError, all processes raise one.

    Raises:
      UserError: the error of process 0; on the other processes a reference to it.
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
            error = UserError("process 0 failed; see its error message.")
    if error is not None:
        raise error
