"""The one way to open weights: whatever is at a path, as tensors under the official names."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json
from step1x_jax.models.autoencoder import abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.weights import config_json, diffusers_folder
from step1x_jax.weights.checks import check_tensors, common_dtype
from step1x_jax.weights.files.fp8 import as_numbers
from step1x_jax.weights.files.opening import open_file
from step1x_jax.weights.flux import FluxStart, start_from_flux
from step1x_jax.weights.kinds import RUN, Kind, kind_of
from step1x_jax.weights.layouts.official import Entry, autoencoder_table, model_table
from step1x_jax.weights.lora.file import Lora, LoraFile
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.places import places_of
from step1x_jax.weights.readers import Cast, CheckedFirst, Shape, Tensors
from step1x_jax.weights.run.base import check_base, find_base
from step1x_jax.weights.run.folder import is_run, no_average
from step1x_jax.weights.run.reader import RunFolder, RunTensors

Config = ModelConfig | AutoencoderConfig
Say = Callable[[str], None]
Loras = Sequence[tuple[epath.PathLike, float]]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Opened weights; no number has been read yet, but those of LoRAs.

    Attributes:
      path: of the file or folder.
      kind: its format, and what it holds.
      config: sizes and dtypes. Of files, param_dtype and dtype are one that holds all tensors'.
      tensors: under the official names, compared with the sizes.
      settings: what is said beside them: of a run its config's sections, else the entries of
        config.json that are no sizes.
    """

    path: epath.Path
    kind: Kind
    config: Config
    tensors: Tensors
    settings: Mapping[str, Any]


def open_weights(
    path: epath.PathLike,
    *,
    base: epath.PathLike | None = None,
    ema: bool = False,
    loras: Loras = (),
    exact: bool = False,
    sizes: ModelConfig | None = None,
    flux: FluxStart | None = None,
    ignore: Sequence[str] = (),
    room: epath.PathLike | None = None,
    say: Say = logging.warning,
) -> Weights:
    """Opens a model (of a folder with several parts, connector and DiT) or an autoencoder.

    Understood are a .safetensors file (official or diffusers' names; plain or in 8 bits), an index
    or a folder with one; diffusers' pipeline; a folder of parts; the release's folder; a run's
    folder, of all parameters, of adapters or of weights alone.

    Args:
      path: of any of these.
      base: of a run of adapters: the model that they were trained on, if it is not any more where
        the run found it; of any form itself.
      ema: of a run: the moving average instead of the parameters.
      loras: to merge, each with its strength: files or folders of LoRAs, or runs of adapters.
      exact: sums (of LoRAs; 8-bit numbers times their scales) are float32, instead of rounded to
        the dtype in which the weights are stored (bfloat16 for 8 bits).
      sizes: of the model where nothing beside it says them; None: the release's.
      flux: how FLUX.1 is filled up to a model to start from; None: it is opened as it is.
      ignore: see `LoraFile`.
      room: a local folder with room for a copy of a run that is read in the published order; None:
        the system's for temporary files.
      say: prints a warning.

    Raises:
      UserError: nothing is there, or what cannot be used; it is damaged, or does not fit its sizes
        or its base; there is no average.
    """
    path = epath.Path(path)
    sums: list[tuple[Lora, float]] = []
    rounded: Mapping[str, np.dtype] | None = None
    if is_run(path):
        run = RunFolder(path, ema=ema, say=say)
        weights = Weights(path, RUN, run.model, RunTensors(run, room), run.config)
        if run.lora.rank:
            below = _base_of(run, base, room, say)
            weights = dataclasses.replace(weights, tensors=below)
            sums.append((run.adapters(), 1.0))
    elif ema:
        raise no_average(path)
    else:
        weights, rounded = _open_files(path, exact or bool(loras), sizes)
        if weights.kind.holds == "flux" and flux is not None:
            weights = _started(weights, flux, say)
    if base and not sums:
        raise UserError(
            f"{path} is no run of adapters, and only these have a base (--base); leave it out."
        )
    if loras and weights.kind.holds != "model":
        raise UserError(
            f"{path} holds no model ({weights.kind.title}), and LoRAs are for one; leave them out."
        )
    for lora, scale in loras:
        assert isinstance(weights.config, ModelConfig)
        sums.append((open_lora(lora, weights.config, ignore, say), scale))
    if not sums:
        return weights
    dtypes = dict(weights.tensors.dtypes)
    if exact:
        modules = {module for lora, _ in sums for module in lora.shapes}
        dtypes |= {f"{module}.weight": np.dtype(np.float32) for module in modules}
    elif rounded is not None:
        dtypes = {name: rounded.get(name, dtype) for name, dtype in dtypes.items()}
    return dataclasses.replace(weights, tensors=Merged(weights.tensors, sums, dtypes))


def open_lora(
    path: epath.PathLike, sizes: ModelConfig, ignore: Sequence[str] = (), say: Say = logging.warning
) -> Lora:
    """A LoRA for a model: a file or folder of any form, or a run of adapters.

    Args:
      path: of it.
      sizes: of the model.
      ignore: see `LoraFile`.
      say: is told what of it does nothing.

    Raises:
      UserError: it is no LoRA, or for another model.
    """
    path = epath.Path(path)
    if is_run(path):
        lora = RunFolder(path, say=say).adapters()
        table = model_table(sizes)
        for module, shape in lora.shapes.items():
            weight = table.get(module + ".weight")
            if weight is None or weight.shape != shape:
                raise UserError(
                    f"{path} adapts {module} of {list(shape)}; it is for another model, give one"
                    " that is for this."
                )
        return lora
    kind = kind_at(path)
    if kind.holds != "adapters":
        raise UserError(
            f"{path} is no LoRA ({kind.title}); give the file or folder of a LoRA, or a run of"
            " adapters, as --lora."
        )
    file = LoraFile(path, model_table(sizes), ignore)
    if file.left_out:
        say(f"{path}: left out: {len(file.left_out)} tensors of a text encoder")
    if file.switched_off:
        few = ", ".join(file.switched_off[:3])
        more = f" and {len(file.switched_off) - 3} more" if len(file.switched_off) > 3 else ""
        say(f"{path}: switched off, by an alpha of 0: {few}{more}")
    return file


def check_is_model(weights: Weights) -> None:
    """Raises UserError unless opened weights are connector and DiT; says what to do with others."""
    path, title = weights.path, weights.kind.title
    if weights.kind.holds == "autoencoder":
        raise UserError(f"{path} is an {title}, no model; give it as --vae.")
    if weights.kind.holds == "flux":
        raise UserError(
            f"{path} is {title}, which does not know editing; make a model of it that can be"
            f" trained: python -m launch.convert --input={path} --output=START.safetensors."
        )


def kind_at(path: epath.PathLike) -> Kind:
    """What is at a path, of a folder with several parts the model.

    Raises:
      UserError: nothing that is known.
    """
    place = places_of(path).model
    return RUN if is_run(place) else kind_of(open_file(place), place)


def sizes_for(path: epath.PathLike) -> ModelConfig:
    """Sizes of a model, or of that for which a LoRA is: as a config.json beside it says.

    Args:
      path: of a run, of weights, or of a LoRA; without a config.json the release's sizes.

    Raises:
      UserError: it is an autoencoder, or damaged.
    """
    place = places_of(path).model
    if is_run(place):
        return RunFolder(place).model
    if kind_at(place).holds != "adapters":
        config = open_weights(place).config
        if not isinstance(config, ModelConfig):
            raise UserError(f"{path} is an autoencoder; give a model.")
        return config
    folder = place if place.is_dir() else place.parent
    values = config_json.read_config_json(folder, "dit")
    source = str(folder / config_json.FILE)
    return config_json.model_from_json(values, source) if values else ModelConfig()


def official_shapes(config: Config) -> dict[str, Shape]:
    """Names and shapes of the official tensors of these sizes."""
    if isinstance(config, ModelConfig):
        table = model_table(config)
    else:
        table = autoencoder_table(abstract_autoencoder(config)[1])
    return {name: entry.shape for name, entry in table.items()}


def _base_of(
    run: RunFolder, given: epath.PathLike | None, room: epath.PathLike | None, say: Say
) -> Tensors:
    """The weights to which a run's adapters belong, in the dtype in which the run had them."""
    model = run.model
    place = find_base(run, given)
    float32 = model.param_dtype == "float32"
    below = open_weights(place, exact=float32, sizes=model, room=room, say=say)
    check_is_model(below)
    assert isinstance(below.config, ModelConfig)
    if below.config.version != model.version:
        raise UserError(
            f"{place} is Step1X-Edit {below.config.version}, and the adapters in {run.workdir} were"
            f" trained on {model.version}; give their base (--base)."
        )
    check_tensors(epath.Path(place), below.tensors.shapes, model_table(model))
    tensors = Cast(below.tensors, np.dtype(jnp.dtype(model.param_dtype)))
    return CheckedFirst(tensors, partial(check_base, run, tensors))


def _open_files(
    path: epath.Path, exact: bool, sizes: ModelConfig | None
) -> tuple[Weights, Mapping[str, np.dtype]]:
    """The weights of files, and the dtypes in which they are stored: bfloat16 for 8 bits."""
    place = places_of(path).model
    file = open_file(place)
    kind = kind_of(file, place)
    if kind.holds == "adapters":
        raise UserError(
            f"{path} is a {kind.title}, no model; give the model, and this as --lora (launch.edit"
            " and launch.convert merge it)."
        )
    rounded = as_numbers(file)
    values = _config_values(file.path.parent, kind)
    source = str(file.path.parent / config_json.FILE)
    config = _config_of(kind, values, source, rounded, sizes)
    seen = [_official(file.path, kind, config, rounded)]
    if exact:
        seen.append(_official(file.path, kind, config, as_numbers(file, "float32")))
    settings = {n: x for n, x in values.items() if n not in config_json.to_json(config)}
    return Weights(path, kind, config, seen[-1], settings), seen[0].dtypes


def _config_values(folder: epath.Path, kind: Kind) -> dict[str, Any]:
    """Our config.json of the model, from whichever is beside its file; empty: nothing is said."""
    path = folder / config_json.FILE
    if kind.diffusers:
        return diffusers_folder.read_json_of(read_json(path), str(path))
    return config_json.read_config_json(folder, "vae" if kind.holds == "autoencoder" else "dit")


def _config_of(
    kind: Kind, values: dict[str, Any], source: str, tensors: Tensors, sizes: ModelConfig | None
) -> Config:
    if kind.holds == "autoencoder":
        return config_json.autoencoder_from_json(values, source) if values else AutoencoderConfig()
    if values:
        config = config_json.model_from_json(values, source)
    else:
        version = "v1.0" if diffusers_folder.SCALE in tensors.shapes else "v1.1"
        config = dataclasses.replace(sizes or ModelConfig(), version=version)
    config.param_dtype = config.dtype = common_dtype(tensors.dtypes.values())
    return config


def _official(path: epath.Path, kind: Kind, config: Config, tensors: Tensors) -> Tensors:
    """A file's tensors under the official names, compared with the sizes."""
    official, flux = official_shapes(config), kind.holds == "flux"
    if flux:
        official = {n: s for n, s in official.items() if not n.startswith("connector.")}
        official |= _guidance(official, tensors)
    if kind.diffusers:
        layout = diffusers_folder.layout_of(config, official, flux)
        _check(path, tensors, layout.there)
        return diffusers_folder.as_official(tensors, layout)
    _check(path, tensors, official)
    return tensors


def _guidance(expected: Mapping[str, Shape], file: Tensors) -> dict[str, Shape]:
    """The guidance embedding that FLUX.1-dev has and FLUX.1-schnell has not."""
    if not any("guidance" in name for name in file.shapes):
        return {}
    return {
        name.replace("time_in", "guidance_in"): shape
        for name, shape in expected.items()
        if name.startswith("time_in.")
    }


def _check(path: epath.Path, tensors: Tensors, shapes: Mapping[str, Shape]) -> None:
    table = {name: Entry(name, shape, ()) for name, shape in shapes.items()}
    check_tensors(path, tensors.shapes, table, dtypes=tensors.dtypes)


def _started(weights: Weights, flux: FluxStart, say: Say) -> Weights:
    """A whole model that begins as FLUX.1."""
    assert isinstance(weights.config, ModelConfig)
    start = start_from_flux(weights.path, weights.tensors, weights.config, flux)
    say(f"drawn with seed {flux.seed}: {', '.join(start.fresh)}")
    say(f"left out: {', '.join(start.left_over) or 'nothing'}")
    kind = dataclasses.replace(weights.kind, holds="model")
    return dataclasses.replace(weights, kind=kind, config=start.config, tensors=start.tensors)
