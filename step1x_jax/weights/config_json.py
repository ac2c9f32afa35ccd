"""config.json beside a weight file: the sizes of its model. The releases have none.

Its `kind` is "dit" (connector and DiT) or "vae" (autoencoder); entries of others, such as the
sampling defaults of editing/settings.py, may stand beside the sizes.
"""

import dataclasses
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.json_files import build, read_json
from step1x_jax.models.config import Architecture, AutoencoderConfig, ModelConfig

Values = dict[str, Any]
FILE = "config.json"

# Fields that old files may lack.
MODEL_OPTIONAL = ("text_length", "attend_to_padding")
AUTOENCODER_OPTIONAL = ("norm_groups",)


def read_config_json(folder: epath.PathLike, kind: str) -> Values:
    """The entries of a folder's config.json, none if it has no such file of this kind.

    Raises:
      UserError: the file is unreadable.
    """
    path = epath.Path(folder) / FILE
    values = read_json(path) if path.is_file() else {}
    return values if values.get("kind") == kind else {}


def model_from_json(values: Values, source: str) -> ModelConfig:
    """The sizes of connector and DiT.

    Args:
      values: of a config.json.
      source: its path, for messages.

    Raises:
      UserError: a size is missing, of another type or out of bounds, or they do not fit together.
    """
    return _from_json(ModelConfig, Architecture, values, source, MODEL_OPTIONAL)


def autoencoder_from_json(values: Values, source: str) -> AutoencoderConfig:
    """The sizes of the autoencoder; arguments and errors as of `model_from_json`."""
    return _from_json(AutoencoderConfig, AutoencoderConfig, values, source, AUTOENCODER_OPTIONAL)


def to_json(config: ModelConfig | AutoencoderConfig) -> Values:
    """The entries that say a model's sizes, as JSON has them."""
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
