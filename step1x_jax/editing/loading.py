"""From a name or a folder to an editor: its model, autoencoder and encoder.

Understood are
  quickstart            the small model that ships with the package
  a run directory       of launch.train: its newest checkpoint; the other parts as its config says
  a folder of parts     transformer/, autoencoder/, encoder/ (the form of assets/quickstart)
  the release's folder  step1x-edit-*.safetensors, vae.safetensors, Qwen2.5-VL-7B-Instruct/
  a weight file         as launch.convert writes it; the other parts beside it as in the release
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from flax import nnx

import step1x_jax
from step1x_jax.conditioning.cache import CachedEncoder
from step1x_jax.conditioning.encoder import READING, EncoderConfig, load_encoder, stored_reading
from step1x_jax.convert.config_json import FILE, read_config_json
from step1x_jax.convert.official import MODEL_NAMES, find_weights, load_autoencoder, load_model
from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError
from step1x_jax.json_files import build
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model
from step1x_jax.sampling.config import SamplingConfig, sampling_from_json, sampling_to_json

QUICKSTART = epath.Path(step1x_jax.__file__).parent / "assets" / "quickstart"
ENCODER = "Qwen2.5-VL-7B-Instruct"

# From a run directory to its parameters and config: training.checkpoint's restore_params.
RestoreRun = Callable[[epath.Path], tuple[nnx.State, Any]]


@dataclasses.dataclass
class Parts:
    """A model in memory and where its companions lie."""

    model: Step1XEdit
    sampling: SamplingConfig
    autoencoder: epath.Path
    encoder: EncoderConfig


def load_editor(
    path: str,
    *,
    restore_run: RestoreRun | None = None,
    dtype: str | None = None,
    autoencoder: str | None = None,
    qwen: str | None = None,
    cache: str | None = None,
    **sampling: float | None,
) -> Editor:
    """Everything that is needed to edit pictures.

    Args:
      path: "quickstart" or a folder, see above.
      restore_run: needed for run directories, see `load_parts`.
      dtype: of the arithmetic; None is float32 on CPUs and bfloat16 elsewhere.
      autoencoder: its file or folder, if not with the model.
      qwen: the language model's folder, if not with the model.
      cache: a folder on a local disk for embeddings, see CachedEncoder; None keeps none.
      **sampling: fields of SamplingConfig to override; None keeps the model's.

    Raises:
      UserError: a part is missing or does not fit, or a value is impossible.
    """
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    parts = load_parts(path, restore_run, dtype)
    overrides: dict[str, Any] = {f: value for f, value in sampling.items() if value is not None}
    defaults = dataclasses.replace(parts.sampling, **overrides)
    defaults.validate()
    config = dataclasses.replace(parts.encoder, path=qwen or parts.encoder.path, dtype=dtype)
    encoder = load_encoder(config) if cache is None else CachedEncoder(config, load_encoder, cache)
    return Editor(
        parts.model,
        load_autoencoder(autoencoder or parts.autoencoder),
        encoder,
        defaults,
    )


def load_parts(path: str, restore_run: RestoreRun | None = None, dtype: str | None = None) -> Parts:
    """Loads the model that `path` means and finds its companions.

    Args:
      path: "quickstart" or a folder, see above.
      restore_run: gives a run directory's parameters and config, for editing/ does not know
        training/: pass step1x_jax.training.checkpoint.restore_params.
      dtype: of the model's arithmetic; None is as trained, or as stored.

    Raises:
      UserError: the folder is of no known form, or its weights do not fit.
    """
    folder = QUICKSTART if path == "quickstart" else epath.Path(path)
    if (folder / "checkpoints").is_dir():
        if restore_run is None:
            raise UserError(f"{folder} is a run directory; pass restore_run=restore_params.")
        return _from_run(*restore_run(folder), dtype)
    is_file = folder.suffix == ".safetensors"
    if (folder / "transformer").is_dir():
        weights = folder / "transformer"
        autoencoder, encoder = folder / "autoencoder", folder / "encoder"
    elif is_file or any((folder / name).is_file() for name in MODEL_NAMES):
        weights, beside = folder, folder.parent if is_file else folder
        autoencoder, encoder = beside / "vae.safetensors", beside / ENCODER
    else:
        raise UserError(
            f"{folder} is no model: give a run directory of launch.train, a folder with"
            f" transformer/, autoencoder/ and encoder/, the release's folder with"
            f" {MODEL_NAMES[0]} or {MODEL_NAMES[1]}, or a .safetensors file."
        )
    weights = find_weights(weights, MODEL_NAMES)
    model = load_model(weights, dtype=dtype)
    values = read_config_json(weights.parent, "dit")
    fields = stored_reading(values)
    fields |= {"path": str(encoder), "text_length": model.config.text_length}
    config = build(EncoderConfig, fields, str(weights.parent / FILE))
    config.validate()
    return Parts(model, sampling_from_json(values), autoencoder, config)


def _from_run(params: nnx.State, config: Any, dtype: str | None) -> Parts:
    model_config = dataclasses.replace(config.model, dtype=dtype or config.model.dtype)
    model = nnx.merge(abstract_model(model_config)[0], params)
    autoencoder = epath.Path(config.autoencoder or "(the run's config.autoencoder is not set)")
    encoder = dataclasses.replace(config.encoder, text_length=config.model.text_length)
    return Parts(model, config.sampling, autoencoder, encoder)


def editor_json(parts: Parts) -> dict[str, Any]:
    """The entries that config.json needs for editing, for `save_model`."""
    encoder = {name: getattr(parts.encoder, name) for name in READING}
    return sampling_to_json(parts.sampling) | encoder
