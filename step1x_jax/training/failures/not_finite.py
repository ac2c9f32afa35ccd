"""End a run whose metrics are no longer finite, and save the batch that caused it."""

from collections.abc import Mapping

import jax
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.weights.files.safetensors_io import write_safetensors
from step1x_jax.weights.readers import InMemory

FOLDER = "not_finite"
MAX_NAMED_EDITS = 3  # edits that the error message lists


def check_finite(
    values: Mapping[str, float], step: int, batch: Mapping[str, np.ndarray], workdir: epath.PathLike
) -> None:
    """Raise UserError if a metric of a step is not finite, after saving the batch.

    The rows of this process are written to WORKDIR/not_finite/step-N-process-P.safetensors, with
    the metrics as metadata. Together with the previous checkpoint they reproduce the step.

    Args:
      values: loss, gradient norm and so on.
      step: number of the step, from 1.
      batch: this process's rows, with "ids" if the edits have names.
      workdir: the run's folder.

    Raises:
      UserError: a value is not finite.
    """
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if not bad:
        return
    path = epath.Path(workdir) / FOLDER / f"step-{step}-process-{jax.process_index()}.safetensors"
    ids = [str(name) for name in batch.get("ids", ())]
    metadata = {name: repr(value) for name, value in values.items()}
    arrays = {name: np.asarray(x) for name, x in batch.items() if name != "ids"}
    metadata |= {"step": str(step), "ids": "\n".join(ids)}
    write_safetensors(path, InMemory(arrays, metadata))
    edits = (
        f" ({', '.join(ids[:MAX_NAMED_EDITS])}{', ...' if len(ids) > MAX_NAMED_EDITS else ''})"
        if ids
        else ""
    )
    raise UserError(
        f"{bad[0]} is {values[bad[0]]} at step {step}; lower optimizer.learning_rate, or inspect"
        f" the step's edits{edits}: they are in {path}. All checkpoints are of earlier steps."
    )
