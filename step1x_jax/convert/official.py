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

from step1x_jax.convert import config_json
from step1x_jax.convert.copying import in_order
from step1x_jax.convert.filling import Keep, filled
from step1x_jax.convert.fp8 import Fp8File, as_numbers
from step1x_jax.convert.keys import Table, autoencoder_table, flat, model_table
from step1x_jax.convert.lora import LoraFile
from step1x_jax.convert.lora_merging import merged
from step1x_jax.convert.safetensors_io import SafetensorsFile, write_safetensors
from step1x_jax.convert.shards import WeightFile
from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json, write_json
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.layers import abstract
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model

MODEL_NAMES = (  # the releases, newest first, then the name that we write
    "step1x-edit-v1p1-official.safetensors",
    "step1x-edit-i1258.safetensors",
    "weights.safetensors",
    "transformer/weights.safetensors",  # in a folder of parts, see editing/loading.py
)
AUTOENCODER_NAMES = ("vae.safetensors", "weights.safetensors")
Specs = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # name -> shape and dtype
WRONG_SIZES = "Give the right file, or put a config.json with its sizes beside it."


def find_weights(path: epath.PathLike, names: Sequence[str]) -> epath.Path:
    """The weight file itself, or in a folder the first of `names`, or the only .safetensors file.

    Raises:
      UserError: there is none.
    """
    path = epath.Path(path)
    if not path.is_dir():
        return path  # a missing file is named when it is opened
    for name in names:
        if (path / name).is_file():
            return path / name
    files = list(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    raise UserError(f"{path} holds none of {', '.join(names)}; give the weight file itself.")


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
        beside the file, or takes those of the release, and keeps the file's dtype.
      dtype: of the arithmetic where config is None; None computes in the parameters' dtype.
      loras: LoRA files to merge, each with a scale.
      shardings: a tree like the model's state; None puts everything on the default device.

    Returns:
      The model, parameters in config.param_dtype.

    Raises:
      UserError: the file is unreadable or does not fit the sizes.
    """
    file = _opened(path, "bfloat16" if config is None else config.param_dtype)
    if config is None:
        config = _model_config_of(file)
        config.dtype = dtype or config.param_dtype
    params = _parameters(file, config, loras, shardings)
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
    return _parameters(_opened(path, config.param_dtype), config, (), shardings, keep)


def open_model(path: epath.PathLike, config: ModelConfig) -> WeightFile | Fp8File:
    """The official tensors of connector and DiT, as `load_parameters` sees them.

    Args:
      path: the file, or a folder with one.
      config: sizes, checked against the file; what is in 8 bits is seen in its param_dtype.

    Raises:
      UserError: the file is unreadable or does not fit the sizes.
    """
    file = _opened(path, config.param_dtype)
    check_tensors(file.path, file.shapes, model_table(config), dtypes=file.dtypes)
    return file


def _opened(path: epath.PathLike, eight_bits_as: str) -> WeightFile | Fp8File:
    """A model's file; what is stored in 8 bits is seen as another dtype."""
    file = SafetensorsFile(find_weights(path, MODEL_NAMES))
    return as_numbers(file, "float32" if eight_bits_as == "float32" else "bfloat16")


def _parameters(
    file: WeightFile | Fp8File,
    config: ModelConfig,
    loras: Sequence[tuple[epath.PathLike, float]],
    shardings: nnx.State | None,
    keep: Keep | None = None,
) -> nnx.State:
    table = model_table(config)
    read = merged(file.read, [(LoraFile(lora, table), scale) for lora, scale in loras])
    check_tensors(file.path, file.shapes, table, dtypes=file.dtypes)
    return filled(abstract_model(config)[1], table, read, shardings, keep)


def _model_config_of(file: WeightFile | Fp8File) -> ModelConfig:
    values = config_json.read_config_json(file.path.parent, "dit")
    if values:
        config = config_json.model_from_json(values, str(file.path.parent / config_json.FILE))
    else:
        config = ModelConfig(version="v1.0" if "connector.scale_factor" in file.shapes else "v1.1")
    is_float32 = file.dtypes.get("img_in.weight") == np.float32
    config.param_dtype = "float32" if is_float32 else "bfloat16"
    return config


def load_autoencoder(path: epath.PathLike, config: AutoencoderConfig | None = None) -> Autoencoder:
    """The autoencoder from an official file, or a folder with one; float32.

    Args:
      path: the file or folder.
      config: sizes; None reads the config.json beside the file, or takes the release's.

    Returns:
      The model.

    Raises:
      UserError: the file is unreadable or does not fit the sizes.
    """
    file = SafetensorsFile(find_weights(path, AUTOENCODER_NAMES))
    if config is None:
        values = config_json.read_config_json(file.path.parent, "vae")
        config = AutoencoderConfig()
        if values:
            source = str(file.path.parent / config_json.FILE)
            config = config_json.autoencoder_from_json(values, source)
    sizes = config
    graph, params = abstract(lambda: Autoencoder(sizes, rngs=nnx.Rngs(0)))
    table = autoencoder_table(params)
    check_tensors(file.path, file.shapes, table, dtypes=file.dtypes)
    return nnx.merge(graph, filled(params, table, file.read))


def check_tensors(
    path: epath.Path,
    shapes: Mapping[str, tuple[int, ...]],
    table: Table,
    advice: str = WRONG_SIZES,
    dtypes: Mapping[str, np.dtype] | None = None,
) -> None:
    """Compares names and shapes of a file's tensors with those of the table.

    Args:
      path: of the file, or of the folder that has several, for the message.
      shapes: of its tensors.
      table: of the model.
      advice: a sentence that says what to do.
      dtypes: of its tensors, if these are to be numbers that weights can be.

    Raises:
      UserError: they differ; names the first tensors that do.
    """
    problems = [f"{name} is missing" for name in table if name not in shapes]
    problems += [f"{name} is unexpected" for name in shapes if name not in table]
    problems += [
        f"{name} has shape {list(shapes[name])}, expected {list(entry.shape)}"
        for name, entry in table.items()
        if name in shapes and shapes[name] != entry.shape
    ]
    problems += [
        f"{name} is {dtype}, expected floating-point numbers"
        for name, dtype in (dtypes or {}).items()
        if not jax.numpy.issubdtype(dtype, np.floating)
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(
            f"{path} does not fit the model's sizes: {'; '.join(problems[:3])}{more}. {advice}"
        )


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
        write_safetensors(path, specs, read)
    else:
        write_file(path, specs, read, model.config)


def write_file(
    path: epath.PathLike,
    specs: Specs,
    read: Callable[[str], np.ndarray],
    config: ModelConfig | AutoencoderConfig,
    fields: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes official tensors, and a config.json beside them unless the sizes are a release's.

    Args:
      path: the .safetensors file.
      specs: name -> shape and dtype.
      read: gives a named tensor when its turn has come.
      config: sizes.
      fields: more entries for config.json (sampling defaults, say); given, it is written.
      metadata: strings for the header.

    Raises:
      UserError: the file cannot be written, or the config.json of another file is there.
    """
    path, sizes = epath.Path(path), config_json.to_json(config)
    values = sizes | dict(fields or {})
    beside = path.parent / config_json.FILE
    if beside.exists() and not path.exists() and read_json(beside) != values:
        raise UserError(
            f"{beside} is that of another model; write {path.name} to a folder of its own."
        )
    write_safetensors(path, specs, read, metadata)
    release: ModelConfig | AutoencoderConfig = AutoencoderConfig()
    if isinstance(config, ModelConfig):
        release = ModelConfig(version=config.version)
    if fields or sizes != config_json.to_json(release):
        write_json(beside, values)


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
