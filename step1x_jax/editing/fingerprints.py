"""Fingerprints of the weights that an edit was made with."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from step1x_jax.editing.loading import FoundModels
from step1x_jax.editing.recipe import File, MergedLora, noted_path
from step1x_jax.files import fingerprint, user_path
from step1x_jax.weights.run.description import DESCRIPTION
from step1x_jax.weights.run.folder import checkpoints_folder, is_run
from step1x_jax.weights.run.reader import RunFolder


def weights_fingerprint(path: epath.PathLike) -> str:
    """Return the fingerprint of weights of any format, see `fingerprint`; quick on large ones.

    Of a run it is that of what its newest checkpoint says of itself: there are sums of all arrays.

    Raises:
      UserError: there is nothing, or it cannot be read.
    """
    path = epath.Path(path)
    if is_run(path):
        return fingerprint(checkpoints_folder(path) / str(RunFolder(path).step) / DESCRIPTION)
    return fingerprint(path)


def noted_models(
    found: FoundModels,
    model: str,
    autoencoder: str | None,
    encoder: str | None,
    loras: Sequence[tuple[str, float]],
) -> dict[str, Any]:
    """The fields of a Recipe that are models.

    Args:
      found: what is loaded.
      model: as the user gave it; the next ones likewise.
      autoencoder: None: beside the model.
      encoder: None: beside the model.
      loras: paths and strengths.

    Raises:
      UserError: one of them cannot be read.
    """
    return {
        "model": File(noted_path(model), weights_fingerprint(found.weights.path)),
        "autoencoder": File(noted_path(autoencoder or ""), weights_fingerprint(found.autoencoder)),
        "encoder": File(noted_path(encoder or ""), weights_fingerprint(found.encoder.path)),
        "loras": tuple(
            MergedLora(noted_path(path), weights_fingerprint(user_path(path)), strength)
            for path, strength in loras
        ),
    }
