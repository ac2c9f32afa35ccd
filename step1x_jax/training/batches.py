"""Host batches: check them and move them to the devices.

A batch is a dictionary of this process's rows as numpy arrays: target and source (B, h, w, 16),
text (B, T, C) and text_lengths (B,); "ids" may hold the names of the edits.
"""

import jax
import numpy as np
from jax.sharding import Mesh

from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.parallel.rules import batch_sharding


def to_global_arrays(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Assemble global arrays, sharded over the batch axes, from each process's rows.

    "ids" stays on the host and is left out.
    """
    # The transfer guard of loop.py refuses this explicit transfer if there are several processes.
    with jax.transfer_guard("allow"):
        return {
            name: jax.make_array_from_process_local_data(batch_sharding(mesh), rows)
            for name, rows in batch.items()
            if name != "ids"
        }


def check_text_width(
    batch: dict[str, np.ndarray], model: ModelConfig, folder: str
) -> dict[str, np.ndarray]:
    """Check that the text embeddings have the width that the model expects.

    Args:
      batch: a host batch.
      model: gives the expected width, connector_in_channels.
      folder: the data set, for the message.

    Returns:
      The batch, unchanged.

    Raises:
      UserError: the widths differ.
    """
    width, wanted = batch["text"].shape[-1], model.connector_in_channels
    if width != wanted:
        raise UserError(
            f"the records in {folder} have embeddings of width {width}, the model takes {wanted}:"
            " they come from another text encoder; encode them with the right one, or set"
            " model.connector_in_channels."
        )
    return batch
