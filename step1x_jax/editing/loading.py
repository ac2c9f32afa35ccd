"""From a name or a folder to an editor: its model, autoencoder and encoder.

Understood are
  quickstart            the small model that ships with the package
  a run directory       of launch.train: its newest checkpoint; the other parts as its config says
  a folder of parts     transformer/, autoencoder/, encoder/ (the form of assets/quickstart)
  the release's folder  step1x-edit-*.safetensors, vae.safetensors, Qwen2.5-VL-7B-Instruct/
  a weight file         as launch.convert writes it; the other parts beside it as in the release
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from flax import nnx

import step1x_jax
from step1x_jax.conditioning.cache import CachedEncoder
from step1x_jax.conditioning.encoder import (
    DTYPES,
    READING,
    EncoderConfig,
    check_encoder,
    load_encoder,
    missing_files,
    stored_reading,
)
from step1x_jax.conditioning.input_files import check_protocol
from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError, require
from step1x_jax.files import find, user_path
from step1x_jax.json_files import build, read_json
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model
from step1x_jax.sampling.config import SamplingConfig, sampling_from_json, sampling_to_json
from step1x_jax.weights.config_json import FILE, read_config_json
from step1x_jax.weights.load import (
    MODEL_NAMES,
    check_model,
    find_weights,
    load_autoencoder,
    load_model,
)

QUICKSTART = epath.Path(step1x_jax.__file__).parent / "assets" / "quickstart"
NAME = "quickstart"
ENCODER = "Qwen2.5-VL-7B-Instruct"
FLAG_NAMES = {"steps": "num_steps"}  # of launch.edit, where SamplingConfig has another

# From a run directory to its parameters and config: training.checkpoint's restore_params.
RestoreRun = Callable[[epath.Path], tuple[nnx.State, Any]]


@dataclasses.dataclass
class Places:
    """Where the parts of an editor are, before any of them is read.

    Attributes:
      model: a weight file or folder, or a run directory.
      is_run: which of them.
      autoencoder: its file or folder.
      encoder: its folder; "" if nothing says where it is.
    """

    model: epath.Path
    is_run: bool
    autoencoder: epath.Path | None
    encoder: str


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
      dtype: of the arithmetic, "float32" or "bfloat16"; None is float32 on CPUs and bfloat16
        elsewhere.
      autoencoder: its file or folder, if not with the model.
      qwen: the language model's folder, if not with the model.
      cache: a folder on a local disk for embeddings, see CachedEncoder; None keeps none.
      **sampling: what to override of the model's defaults, as the flags of launch.edit name it:
        size, steps, guidance, shift, truncate; None keeps the model's.

    Raises:
      UserError: parts are missing (all are named at once, before any is read) or do not fit, or a
        value is impossible.
    """
    overrides = _overrides(sampling)
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    require(dtype in DTYPES, "dtype", dtype, f"use one of {', '.join(DTYPES)}")
    places = find_parts(path)
    if autoencoder:
        places.autoencoder = epath.Path(_checked(autoencoder, "an autoencoder"))
    if qwen:
        places.encoder = _checked(qwen, "a language model")
    _check_all_there(places)
    decoder = None if places.autoencoder is None else load_autoencoder(places.autoencoder)
    parts = _load(places, restore_run, dtype)
    config = dataclasses.replace(parts.encoder, path=places.encoder or parts.encoder.path)
    config.dtype = dtype
    encoder = load_encoder(config) if cache is None else CachedEncoder(config, load_encoder, cache)
    return Editor(
        parts.model,
        decoder or load_autoencoder(parts.autoencoder),
        encoder,
        dataclasses.replace(parts.sampling, **overrides),
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
    return _load(find_parts(path), restore_run, dtype)


def find_parts(path: str) -> Places:
    """What `path` means; looks at names and headers alone.

    Raises:
      UserError: it means nothing that can be edited with; says what it is instead.
    """
    path = os.fspath(path)
    if not path:
        raise UserError(f"no model is given; give {NAME}, or a folder or file of one.")
    folder = QUICKSTART if path == NAME else epath.Path(_checked(path, "a model"))
    if (folder / "checkpoints").is_dir():
        return _run_places(folder)
    is_file = folder.suffix == ".safetensors" and folder.is_file()
    if (folder / "transformer").is_dir():
        weights = folder / "transformer"
        autoencoder, encoder = folder / "autoencoder", folder / "encoder"
    elif is_file or find(folder, "*.safetensors"):
        weights, beside = folder, folder.parent if is_file else folder
        autoencoder, encoder = beside / "vae.safetensors", beside / ENCODER
    else:
        raise UserError(_no_model(path, folder))
    check_model(weights)
    return Places(find_weights(weights, MODEL_NAMES), False, autoencoder, str(encoder))


def _checked(path: str, what: str) -> str:
    check_protocol(path, what)
    return user_path(path)


def _run_places(folder: epath.Path) -> Places:
    """The companions as the run's config says; checkpoints keep a copy of it, which decides."""
    path = folder / FILE
    values = read_json(path) if path.is_file() else {}
    autoencoder, encoder = values.get("autoencoder"), values.get("encoder")
    qwen = encoder.get("path") if isinstance(encoder, dict) else None
    return Places(
        folder,
        True,
        epath.Path(autoencoder) if isinstance(autoencoder, str) and autoencoder else None,
        qwen if isinstance(qwen, str) else "",
    )


def _no_model(given: str, folder: epath.Path) -> str:
    """Why a path is no model, and what to give."""
    forms = (
        f"give {NAME}, a run directory of launch.train, a folder with transformer/, autoencoder/"
        f" and encoder/, the release's folder with {MODEL_NAMES[0]} or {MODEL_NAMES[1]}, or a"
        " .safetensors file"
    )
    if not folder.exists():
        if difflib.get_close_matches(given, [NAME], cutoff=0.8):
            return f"{given} does not exist; did you mean {NAME}?"
        if re.fullmatch(r"[\w.-]+/[\w.-]+", given):
            return (
                f"{given} does not exist here; a name on the Hugging Face hub has to be downloaded"
                f" (hf download {given} --local-dir=weights) and that folder given; or {forms}."
            )
        return f"{given} does not exist; {forms}."
    if folder.is_file():
        return f"{given} is a file, but no .safetensors file, and so is no model: {forms}."
    if "checkpoints" in (folder.name, folder.parent.name):
        run = folder.parent if folder.name == "checkpoints" else folder.parent.parent
        return f"{given} is a part of a run and as such is no model: give the run's folder, {run}."
    what = f"{given} is no model" if any(folder.iterdir()) else f"{given} is empty, and is no model"
    return f"{what}: {forms.replace(f'{NAME}, a run', 'a run')}, or {NAME}."


def _check_all_there(places: Places) -> None:
    """Raises UserError that names all that is missing beside the model."""
    missing = []
    if places.autoencoder is None:
        missing.append("the autoencoder, of which the run's config says nothing (--autoencoder)")
    elif not places.autoencoder.exists():
        missing.append(f"{places.autoencoder} (the autoencoder: --autoencoder)")
    files = missing_files(places.encoder)
    if not places.encoder:
        missing.append("the language model, of which the run's config says nothing (--qwen)")
    elif not epath.Path(places.encoder).exists():
        missing.append(f"{places.encoder} (the language model: --qwen)")
    elif files:
        missing.append(f"{' and '.join(files)} (of the language model: --qwen)")
    if missing:
        raise UserError(
            f"{places.model} needs what is not there: {'; '.join(missing)}. Download it, or say"
            " where it is with the flag."
        )
    check_encoder(places.encoder)


def _load(places: Places, restore_run: RestoreRun | None, dtype: str | None) -> Parts:
    if places.is_run:
        if restore_run is None:
            raise UserError(f"{places.model} is a run directory; pass restore_run=restore_params.")
        return _from_run(*restore_run(places.model), dtype)
    values = read_config_json(places.model.parent, "dit")
    sampling = sampling_from_json(values)
    fields = stored_reading(values) | {"path": places.encoder}
    config = build(EncoderConfig, fields, str(places.model.parent / FILE))
    config.validate()
    model = load_model(places.model, dtype=dtype)
    config.text_length = model.config.text_length
    assert places.autoencoder is not None
    return Parts(model, sampling, places.autoencoder, config)


def _overrides(given: dict[str, float | None]) -> dict[str, Any]:
    """Fields of SamplingConfig, each checked by itself."""
    chosen = {FLAG_NAMES.get(name, name): v for name, v in given.items() if v is not None}
    fields = [field.name for field in dataclasses.fields(SamplingConfig)]
    for name in chosen:
        if name not in fields:
            names = [*FLAG_NAMES, *(f for f in fields if f not in FLAG_NAMES.values())]
            raise UserError(f"there is no setting {name}; use one of {', '.join(names)}.")
    build(SamplingConfig, chosen, "load_editor").validate()
    return chosen


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
