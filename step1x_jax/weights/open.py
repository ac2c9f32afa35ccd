"""Opens weights of any format as tensors under the official names; the only way to do so."""

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
from step1x_jax.weights.component_paths import locate_components
from step1x_jax.weights.files.fp8 import dequantize
from step1x_jax.weights.files.opening import open_file
from step1x_jax.weights.flux import FluxStart, start_from_flux
from step1x_jax.weights.formats import RUN, Format, detect_format
from step1x_jax.weights.layouts.official import TensorEntry, autoencoder_table, model_table
from step1x_jax.weights.lora.file import Lora, LoraFile
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.readers import Cast, CheckOnFirstRead, Shape, Tensors
from step1x_jax.weights.run.base import check_base, find_base
from step1x_jax.weights.run.folder import is_run, no_average_error
from step1x_jax.weights.run.reader import RunFolder, RunTensors

Config = ModelConfig | AutoencoderConfig
Say = Callable[[str], None]
Loras = Sequence[tuple[epath.PathLike, float]]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Opened weights. Except for LoRAs, no tensor has been read yet.

    Attributes:
      path: of the file or folder.
      format: its format, and which component it holds.
      config: sizes and dtypes. For files, param_dtype and dtype are one that holds all tensors'
        exactly.
      tensors: reader of the official tensors; names and shapes have been compared with the sizes.
      settings: a run's config (sections as JSON), or the entries of config.json that are not sizes.
    """

    path: epath.Path
    format: Format
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
    temp_dir: epath.PathLike | None = None,
    say: Say = logging.warning,
) -> Weights:
    """Open a model (in a folder with several components: connector and DiT) or an autoencoder.

    Accepted are a .safetensors file (official or diffusers' names; plain or in 8 bits), an index or
    a folder with one; a diffusers pipeline; a folder of components; the release's folder; the
    folder of a run that trained all parameters or adapters, or of weights alone.

    Args:
      path: of any of these formats.
      base: for a run of adapters: the model that they were trained on, in any format; needed if it
        is no longer where the run found it.
      ema: for a run: opens the moving average instead of the parameters.
      loras: LoRAs to merge, each with its strength: files or folders of LoRAs, or runs of adapters.
      exact: sums (of LoRAs) and products (of 8-bit numbers and their scales) stay float32; else
        they are rounded to the dtype in which the weights are stored (bfloat16 for 8 bits).
      sizes: of the model, if no config.json gives them; None: the release's.
      flux: how FLUX.1 is completed to a model; None: it is opened as it is.
      ignore: see `LoraFile`.
      temp_dir: a local folder with space for a copy of a run that is read under the official names;
        None: the system's folder for temporary files.
      say: prints a warning.

    Raises:
      UserError: the path does not exist or has an unsupported format; it is damaged, or does not
        fit its sizes or its base; there is no average.
    """
    path = epath.Path(path)
    merged: list[tuple[Lora, float]] = []
    rounded: Mapping[str, np.dtype] | None = None
    if is_run(path):
        run = RunFolder(path, ema=ema, say=say)
        weights = Weights(path, RUN, run.model, RunTensors(run, temp_dir), run.config)
        if run.lora.rank:
            base_weights = _open_base(run, base, temp_dir, say)
            weights = dataclasses.replace(weights, tensors=base_weights)
            merged.append((run.adapters(), 1.0))
    elif ema:
        raise no_average_error(path)
    else:
        weights, rounded = _open_files(path, exact or bool(loras), sizes)
        if weights.format.component == "flux" and flux is not None:
            weights = _complete_flux(weights, flux, say)
    if base and not merged:
        raise UserError(
            f"{path} is not a run of adapters, and only these have a base; leave --base out."
        )
    if loras and weights.format.component != "model":
        raise UserError(
            f"{path} is not a model ({weights.format.title}), so LoRAs cannot be merged; leave"
            " --lora out."
        )
    for lora, scale in loras:
        assert isinstance(weights.config, ModelConfig)
        merged.append((open_lora(lora, weights.config, ignore, say), scale))
    if not merged:
        return weights
    dtypes = dict(weights.tensors.dtypes)
    if exact:
        modules = {module for lora, _ in merged for module in lora.shapes}
        dtypes |= {f"{module}.weight": np.dtype(np.float32) for module in modules}
    elif rounded is not None:
        dtypes = {name: rounded.get(name, dtype) for name, dtype in dtypes.items()}
    return dataclasses.replace(weights, tensors=Merged(weights.tensors, merged, dtypes))


def open_lora(
    path: epath.PathLike, sizes: ModelConfig, ignore: Sequence[str] = (), say: Say = logging.warning
) -> Lora:
    """Open a LoRA for a model.

    Args:
      path: a file or folder of any LoRA format, or a run of adapters.
      sizes: of the model.
      ignore: see `LoraFile`.
      say: prints what the file has that is ignored or has no effect.

    Raises:
      UserError: it is not a LoRA, or it is for another model.
    """
    path = epath.Path(path)
    if is_run(path):
        lora = RunFolder(path, say=say).adapters()
        table = model_table(sizes)
        for module, shape in lora.shapes.items():
            weight = table.get(module + ".weight")
            if weight is None or weight.shape != shape:
                raise UserError(
                    f"{path} adapts {module} with shape {list(shape)}, so it is for another"
                    " model; give a LoRA for this one."
                )
        return lora
    found = detect_format_at(path)
    if found.component != "adapters":
        raise UserError(
            f"{path} is not a LoRA ({found.title}); give the file or folder of a LoRA, or a run of"
            " adapters, as --lora."
        )
    file = LoraFile(path, model_table(sizes), ignore)
    if file.ignored:
        say(f"{path}: ignored {len(file.ignored)} tensors of a text encoder")
    if file.switched_off:
        few = ", ".join(file.switched_off[:3])
        more = f" and {len(file.switched_off) - 3} more" if len(file.switched_off) > 3 else ""
        say(f"{path}: switched off by an alpha of 0: {few}{more}")
    return file


def check_is_model(weights: Weights) -> None:
    """Raise UserError, which says what to do, unless opened weights are connector and DiT."""
    path, title = weights.path, weights.format.title
    if weights.format.component == "autoencoder":
        raise UserError(f"{path} is an {title}, not a model; give it as --vae.")
    if weights.format.component == "flux":
        raise UserError(
            f"{path} is {title}, which cannot edit pictures; convert it to a model that can be"
            f" trained: python -m launch.convert --input={path} --output=START.safetensors."
        )


def detect_format_at(path: epath.PathLike) -> Format:
    """Return the format of what is at a path; in a folder with several components, the model's.

    Raises:
      UserError: the path does not exist, or the format is unknown or not supported.
    """
    model = locate_components(path).model
    return RUN if is_run(model) else detect_format(open_file(model), model)


def read_model_sizes(path: epath.PathLike) -> ModelConfig:
    """Return the sizes of a model, or of the model that a LoRA is for, according to config.json.

    Args:
      path: a run, weights, or a LoRA; without a config.json beside it the release's sizes are
        returned.

    Raises:
      UserError: it is an autoencoder, or damaged.
    """
    model = locate_components(path).model
    if is_run(model):
        return RunFolder(model).model
    if detect_format_at(model).component != "adapters":
        config = open_weights(model).config
        if not isinstance(config, ModelConfig):
            raise UserError(f"{path} is an autoencoder; give a model.")
        return config
    folder = model if model.is_dir() else model.parent
    values = config_json.read_config_json(folder, "dit")
    source = str(folder / config_json.FILE)
    return config_json.model_from_json(values, source) if values else ModelConfig()


def official_shapes(config: Config) -> dict[str, Shape]:
    """Return names and shapes of the official tensors of these sizes."""
    if isinstance(config, ModelConfig):
        table = model_table(config)
    else:
        table = autoencoder_table(abstract_autoencoder(config)[1])
    return {name: entry.shape for name, entry in table.items()}


def _open_base(
    run: RunFolder, given: epath.PathLike | None, temp_dir: epath.PathLike | None, say: Say
) -> Tensors:
    """Open the base of a run's adapters, with the dtype in which the run had it."""
    model = run.model
    path = find_base(run, given)
    float32 = model.param_dtype == "float32"
    base_weights = open_weights(path, exact=float32, sizes=model, temp_dir=temp_dir, say=say)
    check_is_model(base_weights)
    assert isinstance(base_weights.config, ModelConfig)
    if base_weights.config.version != model.version:
        raise UserError(
            f"{path} is Step1X-Edit {base_weights.config.version}, but the adapters in"
            f" {run.workdir} were trained on {model.version}; give their base (--base)."
        )
    check_tensors(path, base_weights.tensors.shapes, model_table(model))
    tensors = Cast(base_weights.tensors, np.dtype(jnp.dtype(model.param_dtype)))
    return CheckOnFirstRead(tensors, partial(check_base, run, tensors))


def _open_files(
    path: epath.Path, exact: bool, sizes: ModelConfig | None
) -> tuple[Weights, Mapping[str, np.dtype]]:
    """Open weight files; return also the dtypes in which they are stored (8 bits: bfloat16)."""
    model = locate_components(path).model
    file = open_file(model)
    found = detect_format(file, model)
    if found.component == "adapters":
        raise UserError(
            f"{path} is a {found.title}, not a model; give the model, and this as --lora"
            " (launch.edit and launch.convert merge it)."
        )
    rounded = dequantize(file)
    values = _read_config(file.path.parent, found)
    source = str(file.path.parent / config_json.FILE)
    config = _make_config(found, values, source, rounded, sizes)
    tensors = [_show_official(file.path, found, config, rounded)]
    if exact:
        tensors.append(_show_official(file.path, found, config, dequantize(file, "float32")))
    settings = {n: x for n, x in values.items() if n not in config_json.to_json(config)}
    return Weights(path, found, config, tensors[-1], settings), tensors[0].dtypes


def _read_config(folder: epath.Path, found: Format) -> dict[str, Any]:
    """Read our config.json, or diffusers', beside a model's file; {} if there is none."""
    path = folder / config_json.FILE
    if found.diffusers:
        return diffusers_folder.convert_diffusers_json(read_json(path), str(path))
    return config_json.read_config_json(
        folder, "vae" if found.component == "autoencoder" else "dit"
    )


def _make_config(
    found: Format, values: dict[str, Any], source: str, tensors: Tensors, sizes: ModelConfig | None
) -> Config:
    if found.component == "autoencoder":
        return config_json.autoencoder_from_json(values, source) if values else AutoencoderConfig()
    if values:
        config = config_json.model_from_json(values, source)
    else:
        version = "v1.0" if diffusers_folder.SCALE in tensors.shapes else "v1.1"
        config = dataclasses.replace(sizes or ModelConfig(), version=version)
    dtype = common_dtype(tensors.dtypes.values())
    return dataclasses.replace(config, param_dtype=dtype, dtype=dtype)


def _show_official(path: epath.Path, found: Format, config: Config, tensors: Tensors) -> Tensors:
    """Show a file's tensors under the official names, after comparing them with the sizes."""
    official, flux = official_shapes(config), found.component == "flux"
    if flux:
        official = {n: s for n, s in official.items() if not n.startswith("connector.")}
        official |= _guidance_shapes(official, tensors)
    if found.diffusers:
        layout = diffusers_folder.diffusers_layout(config, official, flux)
        _check(path, tensors, layout.target)
        return diffusers_folder.to_official(tensors, layout)
    _check(path, tensors, official)
    return tensors


def _guidance_shapes(expected: Mapping[str, Shape], file: Tensors) -> dict[str, Shape]:
    """Return the shapes of the guidance embedding, which FLUX.1-dev has but not schnell."""
    if not any("guidance" in name for name in file.shapes):
        return {}
    return {
        name.replace("time_in", "guidance_in"): shape
        for name, shape in expected.items()
        if name.startswith("time_in.")
    }


def _check(path: epath.Path, tensors: Tensors, shapes: Mapping[str, Shape]) -> None:
    table = {name: TensorEntry(name, shape, ()) for name, shape in shapes.items()}
    check_tensors(path, tensors.shapes, table, dtypes=tensors.dtypes)


def _complete_flux(weights: Weights, flux: FluxStart, say: Say) -> Weights:
    """Complete FLUX.1 to a model."""
    assert isinstance(weights.config, ModelConfig)
    start = start_from_flux(weights.path, weights.tensors, weights.config, flux)
    say(f"drawn with seed {flux.seed}: {', '.join(start.drawn)}")
    say(f"left out: {', '.join(start.unused) or 'nothing'}")
    found = dataclasses.replace(weights.format, component="model")
    return dataclasses.replace(weights, format=found, config=start.config, tensors=start.tensors)
