"""A run's config as JSON: WORKDIR/config.json, and a copy in every checkpoint."""

from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import stored_reading
from step1x_jax.json_files import as_json, build, write_json
from step1x_jax.training.config import TrainConfig


def from_json(values: Any, source: str) -> TrainConfig:
    """Build a config from the result of `as_json`. Missing fields take their defaults.

    Args:
      values: a JSON object.
      source: its origin, for error messages.

    Raises:
      UserError: a field is unknown, or a value has the wrong type.
    """
    if isinstance(values, dict) and isinstance(values.get("encoder"), dict):
        encoder = values["encoder"]
        values = values | {"encoder": encoder | stored_reading(encoder)}
    return build(TrainConfig, values, source)


def save_config(config: TrainConfig, path: epath.PathLike) -> None:
    """Write the config as JSON, atomically."""
    write_json(path, as_json(config))
