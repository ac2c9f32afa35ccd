"""From a name or a path to an editor: its model, autoencoder and encoder.

The path is of any form that `weights/open.py` understands; where the other parts lie beside the
model says `weights/places.py`, or the config of a run. "quickstart" is the small model that ships
with the package.
"""

import dataclasses
import difflib
import numbers
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

import step1x_jax
from step1x_jax.conditioning.cache import CachedEncoder
from step1x_jax.conditioning.encoder import DTYPES, check_encoder, load_encoder, missing_files
from step1x_jax.conditioning.input_files import check_protocol
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.settings import encoder_of, sampling_of
from step1x_jax.errors import UserError, require
from step1x_jax.files import find, is_file, user_path
from step1x_jax.json_files import build, shown
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.weights.files.opening import MODEL_NAMES
from step1x_jax.weights.load import load_autoencoder, load_model
from step1x_jax.weights.open import Weights, check_is_model, open_weights
from step1x_jax.weights.places import Places, places_of
from step1x_jax.weights.run.folder import is_run

QUICKSTART = epath.Path(step1x_jax.__file__).parent / "assets" / "quickstart"
NAME = "quickstart"
FLAG_NAMES = {"steps": "num_steps"}  # of launch.edit, where SamplingConfig has another


def load_editor(
    path: str,
    *,
    base: str | None = None,
    ema: bool = False,
    loras: Sequence[Any] = (),
    dtype: str | None = None,
    autoencoder: str | None = None,
    qwen: str | None = None,
    cache: str | None = None,
    **sampling: float | None,
) -> Editor:
    """Everything that is needed to edit pictures.

    Args:
      path: "quickstart", a run's folder, or a file or folder of weights, see above.
      base: of a run of adapters: the model that they were trained on, if it has moved.
      ema: of a run: the moving average of its parameters (optimizer.ema_decay).
      loras: to merge into the model: paths, or pairs of a path and its strength, as in
        ["a.safetensors", ("b.safetensors", 0.8)].
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
    weights = open_weights(
        places.model,
        base=base and model_path(base),
        ema=ema,
        loras=list(map(_with_strength, [loras] if isinstance(loras, str) else loras)),
    )
    check_is_model(weights)
    config = dataclasses.replace(encoder_of(weights), dtype=dtype)
    if places.encoder is not None:
        config.path = str(places.encoder)
    if qwen:
        config.path = _checked(qwen, "a language model")
    decoder = epath.Path(_checked(autoencoder, "an autoencoder")) if autoencoder else None
    decoder = decoder or places.autoencoder or _of_run(weights)
    _check_all_there(weights, decoder, config.path)
    assert decoder is not None
    vae = load_autoencoder(decoder)  # before the model, which takes longer
    return Editor(
        load_model(weights, dtype=dtype),
        vae,
        load_encoder(config) if cache is None else CachedEncoder(config, load_encoder, cache),
        dataclasses.replace(sampling_of(weights), **overrides),
    )


def model_path(given: str) -> epath.Path:
    """A path as a user gives it; the name of the shipped model stands for its folder."""
    given = os.fspath(given)
    return QUICKSTART if given == NAME else epath.Path(_checked(given, "a model"))


def find_parts(path: str) -> Places:
    """Where the parts of a model lie; looks at names alone.

    Raises:
      UserError: nothing is there that can be edited with; says what it is instead.
    """
    path = os.fspath(path)
    if not path:
        raise UserError(f"no model is given; give {NAME}, or a folder or file of one.")
    folder = model_path(path)
    known = is_run(folder) or (folder / "transformer").is_dir() or is_file(folder)
    if not known and not find(folder, "*.safetensors"):
        raise UserError(_no_model(path, folder))
    return places_of(folder)


def _checked(path: str, what: str) -> str:
    check_protocol(path, what)
    return user_path(path)


def _with_strength(lora: Any) -> tuple[str, float]:
    """A LoRA's path and strength, 1 if only a path is given."""
    path, strength = lora if isinstance(lora, tuple) and len(lora) == 2 else (lora, 1.0)
    if not isinstance(path, str | os.PathLike) or not isinstance(strength, numbers.Real):
        raise UserError(f"loras has {shown(lora)}; give paths, or pairs of a path and a number.")
    return _checked(os.fspath(path), "a LoRA"), float(strength)


def _of_run(weights: Weights) -> epath.Path | None:
    """The autoencoder that a run's config names."""
    named = weights.settings.get("autoencoder")
    return epath.Path(named) if isinstance(named, str) and named else None


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


def _check_all_there(weights: Weights, autoencoder: epath.Path | None, encoder: str) -> None:
    """Raises UserError that names all that is missing beside the model."""
    missing = []
    if autoencoder is None:
        missing.append("the autoencoder, of which the run's config says nothing (--autoencoder)")
    elif not autoencoder.exists():
        missing.append(f"{autoencoder} (the autoencoder: --autoencoder)")
    files = missing_files(encoder)
    if not encoder:
        missing.append("the language model, of which the run's config says nothing (--qwen)")
    elif not epath.Path(encoder).exists():
        missing.append(f"{encoder} (the language model: --qwen)")
    elif files:
        missing.append(f"{' and '.join(files)} (of the language model: --qwen)")
    if missing:
        raise UserError(
            f"{weights.path} needs what is not there: {'; '.join(missing)}. Download it, or say"
            " where it is with the flag."
        )
    check_encoder(encoder)


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
