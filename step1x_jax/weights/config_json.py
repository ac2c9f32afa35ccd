"""config.json beside a weight file: the sizes of its model. The releases have none.

Its `kind` is "dit" (connector and DiT) or "vae" (autoencoder). It may also hold other entries, such
as the sampling defaults of editing/settings.py.
"""

import dataclasses
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.json_files import build, read_json
from step1x_jax.models.config import Architecture, AutoencoderConfig, ModelConfig

Values = dict[str, Any]
FILE = "config.json"

# Fields that older files may lack.
MODEL_OPTIONAL = ("text_length", "attend_to_padding")
AUTOENCODER_OPTIONAL = ("norm_groups",)


def read_config_json(folder: epath.PathLike, kind: str) -> Values:
    """Read the entries of a folder's config.json; return {} if it has none of this kind.

    Args:
      folder: the folder.
      kind: "dit" or "vae".

    Raises:
      UserError: the file is unreadable.
    """
    path = epath.Path(folder) / FILE
    values = read_json(path) if path.is_file() else {}
    return values if values.get("kind") == kind else {}


def model_from_json(values: Values, source: str) -> ModelConfig:
    """Return the sizes of connector and DiT.

    Args:
      values: entries of a config.json.
      source: its path, for messages.

    Raises:
      UserError: a size is missing, has another type or is out of bounds, or sizes contradict each
        other.
    """
    return _from_json(ModelConfig, Architecture, values, source, MODEL_OPTIONAL)


def autoencoder_from_json(values: Values, source: str) -> AutoencoderConfig:
    """Return the autoencoder's sizes; arguments and errors as in `model_from_json`."""
    return _from_json(AutoencoderConfig, AutoencoderConfig, values, source, AUTOENCODER_OPTIONAL)


def to_json(config: ModelConfig | AutoencoderConfig) -> Values:
    """Return a model's sizes as entries of config.json."""
    is_model = isinstance(config, ModelConfig)
    values: Values = {"kind": "dit" if is_model else "vae"}
    for field in dataclasses.fields(Architecture if is_model else AutoencoderConfig):
        value = getattr(config, field.name)
        values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def _from_json(
    config_class: Any, sizes: Any, values: Values, source: str, optional: tuple[str, ...]
) -> Any:
    names = {field.name for field in dataclasses.fields(sizes)}
    missing = sorted(names - set(optional) - set(values))
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}; add the model's sizes to it.")
    chosen = {name: value for name, value in values.items() if name in names}
    config = build(config_class, chosen, source)
    try:
        config.validate()
    except UserError as e:
        raise UserError(f"{source}: {e}") from e
    return config
