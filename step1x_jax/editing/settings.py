"""How weights are sampled and how their prompts are read, as is said beside them.

A run says it in sections of its config, files in entries of a config.json; what its speeds mean is
in a file of its own (sampling/stored_plans.py).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import READING, EncoderConfig, stored_reading
from step1x_jax.errors import UserError
from step1x_jax.files import is_file
from step1x_jax.json_files import build
from step1x_jax.models.config import ModelConfig
from step1x_jax.sampling.config import SamplingConfig, sampling_from_json, sampling_to_json
from step1x_jax.sampling.plan import SamplingPlan
from step1x_jax.sampling.stored_plans import read_plans
from step1x_jax.weights.formats import RUN
from step1x_jax.weights.open import Weights


def sampling_of(weights: Weights) -> SamplingConfig:
    """The sampling defaults.

    Raises:
      UserError: they are impossible.
    """
    if weights.format is not RUN:
        return sampling_from_json(dict(weights.settings))
    values = weights.settings.get("sampling", {})
    config = build(SamplingConfig, values, str(weights.path), "sampling")
    config.validate()
    return config


def folder_of_plans(weights: Weights) -> epath.Path:
    """Where the plans of a model's speeds are stored: in its folder, or beside its file."""
    return weights.path.parent if is_file(weights.path) else weights.path


def plans_of(weights: Weights) -> dict[str, SamplingPlan]:
    """The plans that are stored with the model, by the names of speeds.

    Raises:
      UserError: their file is damaged.
    """
    return read_plans(folder_of_plans(weights))


def encoder_of(weights: Weights) -> EncoderConfig:
    """How prompts and pictures are read; its path is "" unless a run names one.

    Raises:
      UserError: the settings are impossible.
    """
    values = weights.settings
    if weights.format is RUN:
        values = values.get("encoder", {})
        if not isinstance(values, dict):
            raise UserError(f"{weights.path}: encoder is no section of its config.")
        fields = values | stored_reading(values)
    else:
        fields = stored_reading(values)
    config = build(EncoderConfig, fields, str(weights.path), "encoder")
    config.validate()
    if isinstance(weights.config, ModelConfig):
        config = dataclasses.replace(config, text_length=weights.config.text_length)
    return config


def settings_json(weights: Weights) -> Mapping[str, Any]:
    """The same as entries of a config.json; those of files as they are there."""
    if weights.format is not RUN:
        return weights.settings
    encoder = encoder_of(weights)
    return sampling_to_json(sampling_of(weights)) | {n: getattr(encoder, n) for n in READING}
