"""Finding the three parts of an editor: model, autoencoder and encoder.

Understood are
  quickstart            the small model that ships with the package
  a run directory       of launch.train: its newest checkpoint; the other parts as its config says
  a folder of parts     transformer/, autoencoder/, encoder/ (the form of assets/quickstart)
  the release's folder  step1x-edit-*.safetensors, vae.safetensors, Qwen2.5-VL-7B-Instruct/
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epath
from flax import nnx

import step1x_jax
from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.convert.official import MODEL_NAMES, load_model, read_json
from step1x_jax.errors import UserError
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model
from step1x_jax.sampling.config import SamplingConfig, sampling_from_json, sampling_to_json

QUICKSTART = epath.Path(step1x_jax.__file__).parent / "assets" / "quickstart"
ENCODER = "Qwen2.5-VL-7B-Instruct"


@dataclasses.dataclass
class Parts:
    """A model in memory and where its companions lie."""

    model: Step1XEdit
    sampling: SamplingConfig
    autoencoder: epath.Path
    encoder: EncoderConfig


def encoder_to_json(config: EncoderConfig) -> dict:
    """What config.json says beside the model's sizes about how its prompts were read."""
    return {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}


def editor_json(sampling: SamplingConfig, encoder: EncoderConfig) -> dict:
    """The entries that a model's config.json needs for editing, for `save_model`."""
    return sampling_to_json(sampling) | encoder_to_json(encoder)


def load_parts(
    path: str,
    restore_run: Callable[[epath.Path], tuple[nnx.State, Any]],
    dtype: str | None = None,
) -> Parts:
    """Loads the model that `path` means and finds its companions.

    Args:
      path: "quickstart" or a folder, see above.
      restore_run: gives a run directory's parameters and config (training's `restore_params`).
      dtype: of the model's arithmetic; None is as trained, or as stored.

    Returns:
      The parts.

    Raises:
      UserError: the folder is of no known form, or its weights do not fit.
    """
    folder = QUICKSTART if path == "quickstart" else epath.Path(path)
    if (folder / "checkpoints").is_dir():
        return _from_run(*restore_run(folder), dtype)
    if (folder / "transformer").is_dir():
        weights, autoencoder, encoder = (
            folder / n for n in ("transformer", "autoencoder", "encoder")
        )
    elif any((folder / name).is_file() for name in MODEL_NAMES):
        weights, autoencoder, encoder = folder, folder / "vae.safetensors", folder / ENCODER
    else:
        raise UserError(
            f"{folder} is no model: give a run directory of launch.train, a folder with"
            f" transformer/, autoencoder/ and encoder/, or the release's folder with"
            f" {MODEL_NAMES[0]} or {MODEL_NAMES[1]}."
        )
    model = load_model(weights, dtype=dtype)
    beside = weights / "config.json"
    values = read_json(beside) if beside.is_file() else {}
    limits = {name: values[name] for name in ("min_pixels", "max_pixels") if name in values}
    config = EncoderConfig(path=str(encoder), text_length=model.config.text_length, **limits)
    return Parts(model, sampling_from_json(values), autoencoder, config)


def _from_run(params: nnx.State, config: Any, dtype: str | None) -> Parts:
    model_config = dataclasses.replace(config.model, dtype=dtype or config.model.dtype)
    model = nnx.merge(abstract_model(model_config)[0], params)
    autoencoder = epath.Path(config.autoencoder or "(the run's config.autoencoder is not set)")
    return Parts(model, config.sampling, autoencoder, config.encoder)
