"""What a file or folder of weights is, and its tensors under the official names.

`KINDS` is the list: each is told by the names of its tensors. A kind that holds a model is opened
as `Weights`, whatever its layout; adapters are told, so that they can be described or refused.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from etils import epath
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.layers import abstract
from step1x_jax.weights import config_json, diffusers_folder
from step1x_jax.weights.checks import check_tensors, common_dtype
from step1x_jax.weights.files.fp8 import as_numbers
from step1x_jax.weights.files.opening import (
    AUTOENCODER_NAMES,
    MODEL_NAMES,
    PREFIXES,
    WeightFile,
    open_file,
)
from step1x_jax.weights.layouts.official import Entry, autoencoder_table, model_table
from step1x_jax.weights.readers import Shape, Tensors

Config = ModelConfig | AutoencoderConfig


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of file: how it is told, what it is called, and what it holds."""

    title: str
    marks: tuple[str, ...]  # patterns, each of which some tensor's name matches
    holds: str  # "model", "autoencoder", "flux" or "adapters"
    diffusers: bool = False


# In the order in which they are tried.
KINDS = {
    "kohya": Kind("LoRA in kohya's form", (r"\.lora_down\.weight$",), "adapters"),
    "peft": Kind("LoRA in PEFT's form", (r"\.lora_A\.([^.]+\.)?weight$",), "adapters"),
    "official": Kind("Step1X-Edit, official", (r"^double_blocks\.0\.", r"^connector\."), "model"),
    "diffusers": Kind(
        "Step1X-Edit, diffusers", (r"^transformer_blocks\.0\.", r"^connector\."), "model", True
    ),
    "flux": Kind("FLUX.1, official", (r"^double_blocks\.0\.", r"^img_in\."), "flux"),
    "flux_diffusers": Kind(
        "FLUX.1, diffusers", (r"^transformer_blocks\.0\.", r"^x_embedder\."), "flux", True
    ),
    "autoencoder": Kind("autoencoder, official", (r"^decoder\.up\.0\.",), "autoencoder"),
    "autoencoder_diffusers": Kind(
        "autoencoder, diffusers", (r"^decoder\.up_blocks\.0\.",), "autoencoder", True
    ),
}


# Adapters that are no LoRA, by endings of their tensors' names.
OTHER_ADAPTERS = {
    (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"): "DoRA",
    (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".hada_t1", ".hada_t2"): "LoHa",
    (
        ".lokr_w1", ".lokr_w2", ".lokr_w1_a", ".lokr_w1_b", ".lokr_w2_a", ".lokr_w2_b", ".lokr_t2",
    ): "LoKr",
    (".oft_blocks", ".oft_diag", ".oft_R", ".oft_R.weight"): "OFT",
    (".boft_R", ".boft_s"): "BOFT",
    (".ia3_l", ".on_input"): "IA3",
    (".vera_lambda_b", ".vera_lambda_d"): "VeRA",
    (".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"): "GLoRA",
    (".lora_mid.weight",): "LoCon in Tucker form",
    (".diff", ".diff_b", ".set_weight"): "difference of whole weights",
}  # fmt: skip


def other_adapter(name: str) -> str | None:
    """What kind of adapter, LoRA aside, a tensor of this name belongs to; None if to none."""
    for endings, title in OTHER_ADAPTERS.items():
        if name.endswith(endings):
            return title
    return None


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model's weights, opened."""

    path: epath.Path
    kind: str  # of KINDS, or "run"
    tensors: Tensors  # under the official names, compared with the sizes
    config: Config
    fields: Mapping[str, Any]  # entries of config.json beside the sizes


def kind_of(tensors: Tensors, path: epath.PathLike) -> str:
    """The key of KINDS.

    Raises:
      UserError: of no known kind.
    """
    for name, kind in KINDS.items():
        if all(any(re.search(mark, t) for t in tensors.shapes) for mark in kind.marks):
            return name
    for title in filter(None, map(other_adapter, tensors.shapes)):
        raise UserError(
            f"{path} is an adapter of the kind {title}, and only LoRAs can be read; merge it into"
            " its model with the program that made it, and give the model."
        )
    if not tensors.shapes:
        raise UserError(f"{path} holds no tensors; give a file with weights.")
    first = "; ".join(sorted(tensors.shapes)[:3])
    if any(name.startswith(f"{PREFIXES[0]}double_blocks.") for name in tensors.shapes):
        raise UserError(
            f"{path} is a checkpoint of several models in one ({first}; ...); save its tensors"
            f" {PREFIXES[0]}* alone, with the program that made it."
        )
    raise UserError(
        f"{path} is of no known kind: its tensors are {first}; ...; known are"
        f" {'; '.join(kind.title for kind in KINDS.values())}."
    )


def check_is_official(file: WeightFile, path: epath.PathLike) -> None:
    """Raises UserError unless a file is connector and DiT under the official names.

    The message says what the file is, and which command makes the official file of it.
    """
    name = kind_of(file, path)
    kind, folder = KINDS[name], file.path.parent
    convert = "python -m launch.convert"
    if name == "official":
        return
    if kind.holds == "adapters":
        raise UserError(
            f"{path} is a {kind.title}, no model; merge it into its model: {convert}"
            f" --input=MODEL --lora={path} --output=MERGED.safetensors."
        )
    if kind.holds == "autoencoder":
        raise UserError(f"{path} is an {kind.title}, no model; give it as --autoencoder.")
    if kind.holds == "flux":
        raise UserError(
            f"{path} is {kind.title}, which does not know editing; {convert} --input={path}"
            " --output=START.safetensors makes a model of it from which training can start."
        )
    source = folder.parent if (folder.parent / "model_index.json").is_file() else folder
    raise UserError(
        f"{path} is {kind.title}, a form that is not read here; {convert} --input={source}"
        " --output=OFFICIAL.safetensors makes the official file of it."
    )


def parts_of(path: epath.PathLike) -> dict[str, epath.Path]:
    """Where the parts of a file or folder lie: "transformer", "vae", or both.

    A pipeline of diffusers, a folder of parts and the release's folder (see editing/loading.py)
    have both; a file, or a folder of one model, has the part that it is.

    Raises:
      UserError: nothing is there, or nothing that is known.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file or folder of weights.")
    if path.is_dir() and (path / "transformer").is_dir():
        places = {"transformer": ("transformer",), "vae": ("vae", "autoencoder")}
    elif path.is_dir() and any((path / name).is_file() for name in MODEL_NAMES[:2]):
        places = {"transformer": MODEL_NAMES[:2], "vae": AUTOENCODER_NAMES[:1]}
    else:
        file = open_file(path)
        holds = KINDS[kind_of(file, path)].holds
        return {"vae" if holds == "autoencoder" else "transformer": path}
    found: dict[str, epath.Path] = {}
    for part, names in places.items():
        for name in names:
            if (path / name).exists():
                found.setdefault(part, path / name)
    return found


def open_weights(
    path: epath.PathLike, eight_bits_as: str = "bfloat16", sizes: Config | None = None
) -> Weights:
    """Opens a model: connector and DiT, an autoencoder, or FLUX.1's DiT.

    Args:
      path: of a .safetensors file, an index, or a folder of one model.
      eight_bits_as: dtype in which numbers that are stored in 8 bits are seen.
      sizes: of the model; None reads the config.json beside it, or takes the release's.

    Raises:
      UserError: it is damaged, of no known kind, holds adapters, or does not fit its sizes.
    """
    path = epath.Path(path)
    file = open_file(path)
    name = kind_of(file, path)
    kind = KINDS[name]
    if kind.holds == "adapters":
        raise UserError(
            f"{path} is a {kind.title}, not a model; give the model as --input, and this as --lora."
        )
    tensors: Tensors = as_numbers(file, eight_bits_as)
    values = config_json.to_json(sizes) if sizes else _config_values(file.path.parent, kind)
    config, official = _sizes(kind, values, str(file.path.parent / config_json.FILE), tensors)
    flux = kind.holds == "flux"
    if flux:
        official = {n: s for n, s in official.items() if not n.startswith("connector.")}
        official |= _guidance(official, tensors)
    if kind.diffusers:
        layout = diffusers_folder.layout_of(config, official, flux)
        _check(file.path, tensors, layout.there)
        tensors = diffusers_folder.as_official(tensors, layout)
    else:
        _check(file.path, tensors, official)
    fields = {n: x for n, x in values.items() if n not in config_json.to_json(config)}
    return Weights(path, name, tensors, config, fields)


def sizes_beside(path: epath.PathLike) -> ModelConfig:
    """Sizes of connector and DiT in the config.json beside a file, or the release's.

    Args:
      path: a file, or a folder with it.

    Raises:
      UserError: the config.json cannot be read.
    """
    path = epath.Path(path)
    folder = path if path.is_dir() else path.parent
    values = config_json.read_config_json(folder, "dit")
    source = str(folder / config_json.FILE)
    return config_json.model_from_json(values, source) if values else ModelConfig()


def _config_values(folder: epath.Path, kind: Kind) -> dict[str, Any]:
    """Our config.json of the model, from whichever is beside its file; empty: release sizes."""
    path = folder / config_json.FILE
    if kind.diffusers:
        return diffusers_folder.read_json_of(read_json(path), str(path))
    return config_json.read_config_json(folder, "vae" if kind.holds == "autoencoder" else "dit")


def _sizes(
    kind: Kind, values: dict[str, Any], source: str, file: Tensors
) -> tuple[Config, dict[str, Shape]]:
    """Config, and names and shapes of the official tensors."""
    if kind.holds == "autoencoder":
        sizes = AutoencoderConfig()
        if values:
            sizes = config_json.autoencoder_from_json(values, source)
        return sizes, official_shapes(sizes)
    config = config_json.model_from_json(values, source) if values else ModelConfig()
    if not values and diffusers_folder.SCALE in file.shapes:
        config.version = "v1.0"
    config.param_dtype = common_dtype(file.dtypes.values())
    return config, official_shapes(config)


def official_shapes(config: Config) -> dict[str, Shape]:
    """Names and shapes of the official tensors of these sizes."""
    if isinstance(config, ModelConfig):
        table = model_table(config)
    else:
        table = autoencoder_table(abstract(lambda: Autoencoder(config, rngs=nnx.Rngs(0)))[1])
    return {name: entry.shape for name, entry in table.items()}


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
