"""The published .safetensors files to our models and back, strictly.

Every tensor on both sides is accounted for: a missing, unexpected or misshapen one is an error that
names it. Loading goes parameter by parameter (filling.py), so that no host holds more of the model
than its devices do.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json, shown, write_json
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.layers import abstract
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model
from step1x_jax.weights import config_json
from step1x_jax.weights.checks import check_tensors, common_dtype
from step1x_jax.weights.copying import in_order
from step1x_jax.weights.files.fp8 import Fp8File, as_numbers
from step1x_jax.weights.files.opening import (
    AUTOENCODER_NAMES,
    MODEL_NAMES,
    WeightFile,
    find_weights,
    open_file,
)
from step1x_jax.weights.files.safetensors_io import write_safetensors
from step1x_jax.weights.filling import Keep, as_stored, filled
from step1x_jax.weights.finite import only_finite
from step1x_jax.weights.kinds import KINDS, check_is_official, open_weights
from step1x_jax.weights.layouts.official import Table, autoencoder_table, flat, model_table
from step1x_jax.weights.lora.file import LoraFile
from step1x_jax.weights.lora.merging import merged

Specs = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # name -> shape and dtype


def load_model(
    path: epath.PathLike,
    config: ModelConfig | None = None,
    *,
    dtype: str | None = None,
    loras: Sequence[tuple[epath.PathLike, float]] = (),
    shardings: nnx.State | None = None,
) -> Step1XEdit:
    """Connector and DiT from an official file, or a folder with one.

    Args:
      path: the file or folder.
      config: sizes, checked against the file, and dtypes; None reads the sizes from the config.json
        beside the file, or takes those of the release, and keeps each tensor's dtype.
      dtype: of the arithmetic where config is None; None computes in bfloat16 if all tensors are
        bfloat16, else in float32.
      loras: LoRA files to merge, each with a scale.
      shardings: a tree like the model's state; None puts everything on the default device.

    Returns:
      The model, parameters in config.param_dtype, or each in the dtype that it is stored in.

    Raises:
      UserError: the file is unreadable, does not fit the sizes, or has numbers that are not finite.
    """
    stored = _opened(path)
    seen = as_numbers(stored)  # 8 bits as bfloat16
    exact = as_numbers(stored, "float32") if loras else seen  # sums are rounded once
    if config is not None:
        exact = as_numbers(stored, _seen_as(config))
    given, config = config, config or _model_config_of(seen)
    if given is None:
        config.dtype = dtype or config.param_dtype
    dtypes = seen.dtypes if given is None else None
    params = _parameters(exact, config, loras, shardings, dtypes=dtypes)
    return nnx.merge(abstract_model(config)[0], params)


def load_parameters(
    path: epath.PathLike, config: ModelConfig, shardings: nnx.State, keep: Keep | None = None
) -> nnx.State:
    """As `load_model`, but the parameters alone, or what is kept of them.

    Args:
      path: the file, or a folder with one.
      config: sizes, checked against the file, and dtypes.
      shardings: a tree like the model's state.
      keep: sees each parameter when it has been read, before the next one is.

    Raises:
      UserError: the file is unreadable or does not fit the sizes.
    """
    return _parameters(as_numbers(_opened(path), _seen_as(config)), config, (), shardings, keep)


def open_model(path: epath.PathLike, config: ModelConfig) -> WeightFile | Fp8File:
    """The official tensors of connector and DiT, as `load_parameters` sees them.

    Args:
      path: the file, or a folder with one.
      config: sizes, checked against the file; what is in 8 bits is seen in its param_dtype.

    Raises:
      UserError: the file is unreadable or does not fit the sizes.
    """
    file = as_numbers(_opened(path), _seen_as(config))
    check_tensors(file.path, file.shapes, model_table(config), dtypes=file.dtypes)
    return file


def check_model(path: epath.PathLike) -> None:
    """Raises UserError unless `load_model` would take the file, as far as its header tells."""
    file = as_numbers(_opened(path))
    check_tensors(file.path, file.shapes, model_table(_model_config_of(file)), dtypes=file.dtypes)


def _opened(path: epath.PathLike) -> WeightFile:
    """A model's file under the official names, as it is stored."""
    file = open_file(path, MODEL_NAMES)
    check_is_official(file, path)
    return file


def _seen_as(config: ModelConfig) -> str:
    """In which dtype 8 bits are seen that become parameters of this config."""
    return "float32" if config.param_dtype == "float32" else "bfloat16"


def _parameters(
    file: WeightFile | Fp8File,
    config: ModelConfig,
    loras: Sequence[tuple[epath.PathLike, float]],
    shardings: nnx.State | None,
    keep: Keep | None = None,
    dtypes: Mapping[str, np.dtype] | None = None,
) -> nnx.State:
    """Parameters in config.param_dtype or, given the tensors' dtypes, each in its own."""
    table = model_table(config)
    check_tensors(file.path, file.shapes, table, dtypes=file.dtypes)
    opened = [(LoraFile(lora, table), scale) for lora, scale in loras]
    read = merged(file.read, opened, np.dtype(np.float32))
    params = abstract_model(config)[1]
    if dtypes is not None:
        params = as_stored(params, table, dtypes)
    return filled(params, table, read, shardings, keep)


def _model_config_of(file: WeightFile | Fp8File) -> ModelConfig:
    values = config_json.read_config_json(file.path.parent, "dit")
    if values:
        config = config_json.model_from_json(values, str(file.path.parent / config_json.FILE))
    else:
        config = ModelConfig(version="v1.0" if "connector.scale_factor" in file.shapes else "v1.1")
    config.param_dtype = common_dtype(file.dtypes.values())
    return config


def load_autoencoder(path: epath.PathLike, config: AutoencoderConfig | None = None) -> Autoencoder:
    """The autoencoder from an official file or diffusers' AutoencoderKL; float32.

    Args:
      path: the file, or a folder with it (diffusers' has its own config.json).
      config: sizes; None reads the config.json beside the file, or takes the release's.

    Returns:
      The model.

    Raises:
      UserError: the file is unreadable, does not fit the sizes, or has numbers that are not finite.
    """
    weights = open_weights(find_weights(path, AUTOENCODER_NAMES), "float32", config)
    sizes, tensors = weights.config, weights.tensors
    if not isinstance(sizes, AutoencoderConfig):
        raise UserError(
            f"{path} is {KINDS[weights.kind].title}, no autoencoder; give vae.safetensors, or"
            " diffusers' vae/, as --autoencoder."
        )
    graph, params = abstract(lambda: Autoencoder(sizes, rngs=nnx.Rngs(0)))

    def read(name: str, rows: np.ndarray | None = None) -> np.ndarray:
        return tensors.read(name) if rows is None else tensors.read(name)[rows]

    return nnx.merge(graph, filled(params, autoencoder_table(params), read))


def official_reader(table: Table, state: nnx.State) -> Callable[[str], np.ndarray]:
    """Our parameters seen as official tensors (gradients too: the layouts only move numbers).

    Args:
      table: of the model.
      state: its parameters, or a tree like them.

    Returns:
      A function from official name to array.
    """
    return reader_of(table, flat(state))


def reader_of(table: Table, leaves: Mapping[str, Any]) -> Callable[[str], np.ndarray]:
    """As `official_reader`; the leaves, by path, only need to give themselves or a layer by []."""

    def read(name: str) -> np.ndarray:
        entry = table[name]
        pieces = []
        for part, _, shape in entry.pieces():
            ours = np.asarray(leaves[part.path][... if part.layer is None else part.layer])
            pieces.append(in_order(part.to_official(ours, shape)))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=entry.axis)

    return read


def save_model(
    path: epath.PathLike,
    model: Step1XEdit,
    *,
    dtype: str | None = None,
    json_fields: dict | None = None,
) -> None:
    """Writes connector and DiT as an official file.

    A config.json is written beside it unless the sizes are a release's.

    Args:
      path: the .safetensors file.
      model: the model.
      dtype: of the tensors in the file; None keeps the parameters'.
      json_fields: more entries for config.json (sampling defaults, say); given, it is written.

    Raises:
      UserError: the file cannot be written.
    """
    specs, read = _for_writing(model_table(model.config), nnx.state(model), dtype)
    write_file(path, specs, read, model.config, json_fields)


def save_autoencoder(path: epath.PathLike, model: Autoencoder, *, dtype: str | None = None) -> None:
    """Writes the autoencoder as an official file, with a config.json unless of release sizes.

    Args:
      path: the .safetensors file.
      model: the model.
      dtype: of the tensors in the file; None keeps the parameters'.

    Raises:
      UserError: the file cannot be written.
    """
    state = nnx.state(model)
    specs, read = _for_writing(autoencoder_table(state), state, dtype)
    if model.config == AutoencoderConfig():
        write_safetensors(path, specs, only_finite(read, path))
    else:
        write_file(path, specs, read, model.config)


def write_file(
    path: epath.PathLike,
    specs: Specs,
    read: Callable[[str], np.ndarray],
    config: ModelConfig | AutoencoderConfig,
    fields: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Writes official tensors, and a config.json beside them unless the sizes are a release's.

    Args:
      path: the .safetensors file.
      specs: name -> shape and dtype.
      read: gives a named tensor when its turn has come.
      config: sizes.
      fields: more entries for config.json (sampling defaults, say); given, it is written.
      metadata: strings for the header.
      defaults: what an absent entry of config.json means.

    Raises:
      UserError: a tensor is not finite, the file cannot be written, or the config.json of another
        model is there.
    """
    path, sizes = epath.Path(path), config_json.to_json(config)
    values = sizes | dict(fields or {})
    beside = path.parent / config_json.FILE
    if beside.exists() and not path.exists():
        _check_same(beside, values, config_json.to_json(release_of(config)) | dict(defaults or {}))
    write_safetensors(path, specs, only_finite(read, path), metadata)
    if fields or sizes != config_json.to_json(release_of(config)):
        write_json(beside, values)


def release_of(config: ModelConfig | AutoencoderConfig) -> ModelConfig | AutoencoderConfig:
    """The release's sizes of the same model and version."""
    if isinstance(config, ModelConfig):
        return ModelConfig(version=config.version)
    return AutoencoderConfig()


def _check_same(beside: epath.Path, values: Mapping, defaults: Mapping) -> None:
    """Raises UserError if a config.json says something else than would be written there."""
    there = read_json(beside)
    for name in sorted(there.keys() | values.keys()):
        one, other = (x.get(name, defaults.get(name)) for x in (there, values))
        if one != other:
            raise UserError(
                f"{beside} is that of another model: its {name} is {shown(one)}, here it is"
                f" {shown(other)}; write the file to a folder of its own."
            )


def _for_writing(
    table: Table, state: nnx.State, dtype: str | None
) -> tuple[Specs, Callable[[str], np.ndarray]]:
    """The official tensors of a model in memory: their shapes and dtypes, and a reader."""
    leaves, read = flat(state), official_reader(table, state)
    specs = {
        name: (entry.shape, np.dtype(jax.numpy.dtype(dtype or leaves[entry.parts[0].path].dtype)))
        for name, entry in table.items()
    }
    return specs, lambda name: read(name).astype(specs[name][1], copy=False)
