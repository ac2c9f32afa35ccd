"""A run's config as JSON: WORKDIR/config.json, and a copy inside every checkpoint."""

from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import stored_reading
from step1x_jax.json_files import as_json, build, write_json
from step1x_jax.training.config import TrainConfig


def from_json(values: Any, source: str) -> TrainConfig:
    """Builds a config from what as_json gave. Fields that are not there take their defaults.

    Args:
      values: a JSON object.
      source: where it is from, for messages.

    Raises:
      UserError: an unknown field, or a value of another type.
    """
    if isinstance(values, dict) and isinstance(values.get("encoder"), dict):
        encoder = values["encoder"]
        values = values | {"encoder": encoder | stored_reading(encoder)}
    return build(TrainConfig, values, source)


def save_config(config: TrainConfig, path: epath.PathLike) -> None:
    """Writes the config as JSON, completely or not at all."""
    write_json(path, as_json(config))
