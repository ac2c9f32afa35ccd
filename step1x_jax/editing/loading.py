"""From a name or a path to an editor: its model, autoencoder and encoder.

The path is of any format that `weights/open.py` reads; `weights/component_paths.py`, or a config,
says where the other components are. "quickstart" is the small model that ships
with the package.
"""

import dataclasses
import difflib
import functools
import math
import numbers
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh

import step1x_jax
from step1x_jax import choices
from step1x_jax.conditioning.cache import CachedEncoder
from step1x_jax.conditioning.encoder import (
    DTYPES,
    EncoderConfig,
    check_encoder,
    load_encoder,
    missing_files,
)
from step1x_jax.conditioning.input_files import check_protocol
from step1x_jax.editing.known_edits import read_known_edits
from step1x_jax.editing.memory import check_memory, describe_components
from step1x_jax.editing.settings import encoder_of, plans_of, sampling_of
from step1x_jax.errors import UserError, require
from step1x_jax.files import find, is_file, user_path
from step1x_jax.json_files import shown
from step1x_jax.parallel.compile_cache import enable_compile_cache
from step1x_jax.parallel.mesh import MeshConfig, make_mesh, parse_mesh
from step1x_jax.weights.component_paths import ComponentPaths, locate_components
from step1x_jax.weights.files.opening import MODEL_NAMES
from step1x_jax.weights.load import load_autoencoder, load_model
from step1x_jax.weights.open import Weights, check_is_model, open_weights
from step1x_jax.weights.run.folder import is_run

QUICKSTART = epath.Path(step1x_jax.__file__).parent / "assets" / "quickstart"
NAME = "quickstart"


@dataclasses.dataclass(frozen=True)
class FoundModels:
    """The models of an edit, opened or found.

    Attributes:
      weights: of the model, with its LoRAs.
      autoencoder: where it is.
      encoder: where the language model is, and how prompts are read.
    """

    weights: Weights
    autoencoder: epath.Path
    encoder: EncoderConfig


def load_parts(
    path: str,
    *,
    base: str | None = None,
    loras: Sequence[Any] = (),
    ema: bool = False,
    dtype: str | None = None,
    mesh: Mesh | MeshConfig | str | None = None,
    text_encoder: str | None = None,
    vae: str | None = None,
    cache: str | None = None,
    quantize: str | None = None,
    offload: bool = False,
    say: Callable[[str], object] = logging.info,
) -> dict[str, Any]:
    """The fields of an Editor; arguments and errors are those of `Editor.load`."""
    enable_compile_cache()  # of notebooks, too: a first edit is as quick as the command's
    dtype = dtype or default_dtype()
    require(dtype in DTYPES, "dtype", dtype, f"use one of {', '.join(DTYPES)}")
    kinds = ", ".join(choices.EIGHT_BITS)
    require(
        quantize is None or quantize in choices.EIGHT_BITS,
        "quantize",
        quantize,
        f"use one of {kinds}",
    )
    devices = _mesh(mesh)
    found = find_weights(path, base=base, loras=loras, ema=ema, text_encoder=text_encoder, vae=vae)
    weights, decoder = found.weights, found.autoencoder
    config = dataclasses.replace(found.encoder, dtype=dtype)
    parts = describe_components(weights, decoder, config.path, quantize, devices)
    check_memory(parts, devices, offload=offload, encoder_waits=cache is not None)
    for part in parts:
        say(part.line)
    load = functools.partial(load_encoder, mesh=devices, on_host=offload)
    return {
        "autoencoder": load_autoencoder(decoder),  # before the model, which takes longer
        "model": load_model(weights, devices, dtype, quantize=quantize, on_host=offload),
        "encoder": load(config) if cache is None else CachedEncoder(config, load, cache),
        "sampling": sampling_of(weights),
        "plans": plans_of(weights),
        "mesh": devices,
        "on_host": offload,
        "known_edits": read_known_edits(QUICKSTART) if model_path(path) == QUICKSTART else (),
        "about": [*(part.line for part in parts), _place_in_words(devices, dtype, offload)],
    }


def default_dtype() -> str:
    """Return the default dtype of the arithmetic for the devices of this machine."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def find_weights(
    path: str,
    *,
    base: str | None = None,
    loras: Sequence[Any] = (),
    ema: bool = False,
    text_encoder: str | None = None,
    vae: str | None = None,
) -> FoundModels:
    """Find what would be loaded; of numbers, only those of LoRAs are read.

    Arguments and errors are those of `Editor.load`.
    """
    places = find_parts(path)
    weights = open_weights(
        places.model,
        base=base and model_path(base),
        ema=ema,
        loras=list(map(_with_strength, [loras] if isinstance(loras, str) else loras)),
    )
    check_is_model(weights)
    config = encoder_of(weights)
    if places.encoder is not None:
        config = dataclasses.replace(config, path=str(places.encoder))
    if text_encoder:
        config = dataclasses.replace(config, path=_checked(text_encoder, "a language model"))
    decoder = epath.Path(_checked(vae, "an autoencoder")) if vae else None
    decoder = decoder or places.autoencoder or autoencoder_of_run(weights)
    _check_all_there(weights, decoder, config.path)
    assert decoder is not None
    return FoundModels(weights, decoder, config)


def _mesh(wanted: Mesh | MeshConfig | str | None) -> Mesh | None:
    """The mesh of an edit, of as many of the devices as it names."""
    if wanted is None or isinstance(wanted, Mesh):
        return wanted
    config = parse_mesh(wanted) if isinstance(wanted, str) else wanted
    sizes = dataclasses.astuple(config)
    devices = jax.devices()
    if jax.process_count() > 1:
        raise UserError(
            f"an edit runs on the devices of one process, and there are {jax.process_count()};"
            " start one."
        )
    return make_mesh(config, devices if -1 in sizes else devices[: math.prod(sizes)])


def _place_in_words(mesh: Mesh | None, dtype: str, offload: bool) -> str:
    device = (jax.devices() if mesh is None else list(mesh.devices.flat))[0]
    where = f"one {device.device_kind}"
    if mesh is not None:
        axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
        where = f"{mesh.size} x {device.device_kind} ({axes or 'no axis is split'})"
    waiting = "; models wait in the host's memory" if offload else ""
    return f"  on {where}, arithmetic in {dtype}{waiting}"


def model_path(given: str) -> epath.Path:
    """A path as a user gives it; the name of the shipped model means its folder."""
    given = os.fspath(given)
    return QUICKSTART if given == NAME else epath.Path(_checked(given, "a model"))


def find_parts(path: str) -> ComponentPaths:
    """Find the paths of a model's components, by names alone.

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
    return locate_components(folder)


def _checked(path: str, what: str) -> str:
    check_protocol(path, what)
    return user_path(path)


def _with_strength(lora: Any) -> tuple[str, float]:
    """A LoRA's path and strength, 1 if only a path is given."""
    path, strength = lora if isinstance(lora, tuple) and len(lora) == 2 else (lora, 1.0)
    if not isinstance(path, str | os.PathLike) or not isinstance(strength, numbers.Real):
        raise UserError(f"loras has {shown(lora)}; give paths, or pairs of a path and a number.")
    return _checked(os.fspath(path), "a LoRA"), float(strength)


def autoencoder_of_run(weights: Weights) -> epath.Path | None:
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
    """Raise UserError that names all that is missing beside the model."""
    missing = []
    if autoencoder is None:
        missing.append("the autoencoder, of which the run's config says nothing (--vae)")
    elif not autoencoder.exists():
        missing.append(f"{autoencoder} (the autoencoder: --vae)")
    files = missing_files(encoder)
    if not encoder:
        missing.append(
            "the language model, of which the run's config says nothing (--text_encoder)"
        )
    elif not epath.Path(encoder).exists():
        missing.append(f"{encoder} (the language model: --text_encoder)")
    elif files:
        missing.append(f"{' and '.join(files)} (of the language model: --text_encoder)")
    if missing:
        raise UserError(
            f"{weights.path} needs what is not there: {'; '.join(missing)}. Download it, or say"
            " where it is with the flag."
        )
    check_encoder(encoder)
