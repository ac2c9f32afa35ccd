"""What ends a run whose numbers are no numbers any more, and what it leaves behind."""

from collections.abc import Mapping

import jax
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.weights.files.safetensors_io import write_safetensors
from step1x_jax.weights.readers import InMemory

FOLDER = "not_finite"
NAMED = 3  # edits that the sentence names


def check_finite(
    values: Mapping[str, float], step: int, batch: Mapping[str, np.ndarray], workdir: epath.PathLike
) -> None:
    """Raises UserError if a number of a step is not finite, after keeping what led to it.

    WORKDIR/not_finite/step-N-process-P.safetensors gets this process's part of the batch; its
    metadata holds the numbers. With the checkpoint before it, the step can be done again.

    Args:
      values: loss, gradient norm, ... of the step.
      step: its number, from 1.
      batch: this process's rows, with "ids" where the data has names.
      workdir: the run's folder.
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
    edits = f" ({', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''})" if ids else ""
    raise UserError(
        f"{bad[0]} is {values[bad[0]]} at step {step}; lower optimizer.learning_rate, or look at"
        f" the step's edits{edits}: they are in {path}. The checkpoints are from before."
    )
