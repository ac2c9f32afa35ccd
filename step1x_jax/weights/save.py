"""Writes official tensors as an official file, a folder of components, or diffusers' folders.

A file or folder gets its name only when it is complete. Existing folders are not overwritten.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.files import making_folder
from step1x_jax.json_files import read_json, shown, write_json
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.weights import config_json
from step1x_jax.weights.diffusers_folder import write_folder, write_pipeline_json
from step1x_jax.weights.files.safetensors_io import write_safetensors
from step1x_jax.weights.finite import RequireFinite
from step1x_jax.weights.layouts.official import autoencoder_table, flatten_params
from step1x_jax.weights.official_tensors import OfficialTensors
from step1x_jax.weights.open import Weights
from step1x_jax.weights.readers import Cast, Tensors

Components = Mapping[str, Weights]  # "transformer", "vae", or both
SUFFIX = ".safetensors"


def write_official(
    path: epath.Path, components: Components, defaults: Mapping[str, Any] | None = None
) -> None:
    """Write one component as a .safetensors file, or all into transformer/ and autoencoder/.

    Args:
      path: ends in .safetensors for a file, to which of two components "transformer" is written;
        else a folder.
      components: what to write.
      defaults: see `write_file`.

    Raises:
      UserError: see `write_file`.
    """
    if path.suffix == SUFFIX:
        component = components.get("transformer") or components["vae"]
        return write_file(path, component.tensors, component.config, component.settings, defaults)
    with making_folder(path) as temporary:
        for name, folder in (("transformer", "transformer"), ("vae", "autoencoder")):
            if name in components:
                (temporary / folder).mkdir()
                file, one = temporary / folder / "weights.safetensors", components[name]
                write_file(file, one.tensors, one.config, one.settings)
    return None


def write_diffusers(path: epath.Path, components: Components) -> None:
    """Write the folder of one model, or that of a pipeline for two components.

    Args:
      path: the folder to make.
      components: what to write.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    with making_folder(path) as temporary:
        for name, component in components.items():
            folder = temporary / name if len(components) > 1 else temporary
            if len(components) > 1:
                folder.mkdir()
            write_folder(folder, component.tensors, component.config, component.settings)
        if len(components) > 1:
            write_pipeline_json(temporary)


def write_file(
    path: epath.PathLike,
    tensors: Tensors,
    config: ModelConfig | AutoencoderConfig,
    fields: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Write official tensors, and beside them a config.json unless the sizes are a release's.

    Args:
      path: the .safetensors file.
      tensors: the official tensors.
      config: sizes.
      fields: further entries for config.json (e.g. sampling defaults); given, it is always written.
      defaults: the meaning of entries that config.json lacks.

    Raises:
      UserError: a tensor is not finite, the file cannot be written, or the folder has the
        config.json of another model.
    """
    path, sizes = epath.Path(path), config_json.to_json(config)
    values = sizes | dict(fields or {})
    release = config_json.to_json(_release_of(config))
    beside = path.parent / config_json.FILE
    if beside.exists() and not path.exists():
        _check_same(beside, values, release | dict(defaults or {}))
    write_safetensors(path, RequireFinite(tensors, path))
    if fields or sizes != release:
        write_json(beside, values)


def save_autoencoder(path: epath.PathLike, model: Autoencoder, *, dtype: str | None = None) -> None:
    """Write the autoencoder as an official file; a config.json unless the sizes are the release's.

    Args:
      path: the .safetensors file.
      model: the model.
      dtype: of the tensors in the file; None: as the parameters.

    Raises:
      UserError: the file cannot be written.
    """
    state = nnx.state(model)
    tensors: Tensors = OfficialTensors(autoencoder_table(state), flatten_params(state))
    if dtype is not None:
        tensors = Cast(tensors, np.dtype(jnp.dtype(dtype)))
    if (
        model.config == AutoencoderConfig()
    ):  # a config.json beside the release's file is the model's
        write_safetensors(path, RequireFinite(tensors, path))
    else:
        write_file(path, tensors, model.config)


def _release_of(config: ModelConfig | AutoencoderConfig) -> ModelConfig | AutoencoderConfig:
    """Return the release's sizes of the same model and version."""
    if isinstance(config, ModelConfig):
        return ModelConfig(version=config.version)
    return AutoencoderConfig()


def _check_same(beside: epath.Path, values: Mapping, defaults: Mapping) -> None:
    """Raise UserError if an existing config.json differs from the one to be written."""
    there = read_json(beside)
    for name in sorted(there.keys() | values.keys()):
        one, other = (x.get(name, defaults.get(name)) for x in (there, values))
        if one != other:
            raise UserError(
                f"{beside} is that of another model: its {name} is {shown(one)}, here it is"
                f" {shown(other)}; write the file to a folder of its own."
            )
