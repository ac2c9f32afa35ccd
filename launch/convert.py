"""Convert weights from one format to another: launch/guides/weights.md.

    python -m launch.convert --input=runs/mine --output=out/mine.safetensors --dtype=bfloat16
    python -m launch.convert --input=runs/mine --to=diffusers --output=out/mine \
        --vae=vae.safetensors
    python -m launch.convert --input=runs/lora --to=kohya --output=out/lora.safetensors
    python -m launch.convert --input=weights.safetensors --info

--input is quickstart, a run's folder (--ema: its moving average; of adapters: merged into their
base, or with --to=kohya or peft alone), an official .safetensors file or index (v1.0, v1.1,
autoencoder, FLUX.1), diffusers' folder of a model or a pipeline, either in 8 bits, a folder of
parts, or a LoRA (kohya, PEFT, diffusers). --lora and --lora_scale merge LoRAs into a model.
Tensor by tensor, so that little memory is needed.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from tqdm import tqdm

from launch.shared import weights_flags
from launch.shared.command import run
from launch.shared.old_names import keep_old_name
from step1x_jax.conditioning.encoder import READING, EncoderConfig
from step1x_jax.editing.loading import model_path
from step1x_jax.editing.settings import encoder_of, sampling_of, settings_json
from step1x_jax.errors import UserError
from step1x_jax.files import check_local, check_writable, is_remote, user_path
from step1x_jax.json_files import as_json
from step1x_jax.models.config import VERSIONS, ModelConfig
from step1x_jax.sampling.config import SamplingConfig, sampling_to_json
from step1x_jax.weights.component_paths import locate_components
from step1x_jax.weights.diffusers_folder import FOLDED, SCALE
from step1x_jax.weights.files.fp8 import QuantizeToFp8, is_fp8_weight
from step1x_jax.weights.flux import FluxStart
from step1x_jax.weights.info import describe_weights
from step1x_jax.weights.load import open_autoencoder
from step1x_jax.weights.lora.adapters import to_adapters
from step1x_jax.weights.lora.file import TEXT_ENCODER, Lora
from step1x_jax.weights.lora.writers import save_kohya, save_peft
from step1x_jax.weights.open import (
    Weights,
    detect_format_at,
    open_lora,
    open_weights,
    read_model_sizes,
)
from step1x_jax.weights.readers import Cast, RowIndices, Tensors, nbytes
from step1x_jax.weights.run.folder import is_run, no_average_error
from step1x_jax.weights.run.reader import RunFolder
from step1x_jax.weights.run.writer import write_adapters_folder, write_weights_folder
from step1x_jax.weights.save import SUFFIX, Components, write_diffusers, write_official

_INPUT = flags.DEFINE_string(
    "input", None, "A run's folder, a .safetensors file, or a folder with weights.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "The .safetensors file or the folder to make.")
_EIGHT_BITS = {"float8_e4m3fn": False, "float8_e4m3fn_scaled": True}  # with a scale for each weight
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", *_EIGHT_BITS],
    "Dtype of the tensors (default: as they are; bfloat16 for what is in 8 bits).",
)
_INFO = flags.DEFINE_bool("info", False, "Say what the input is, and convert nothing.")
_VAE = flags.DEFINE_string(
    "vae", None, "The autoencoder's file or folder, to be written beside the model."
)
_IGNORE = flags.DEFINE_multi_enum(
    "ignore", [], [TEXT_ENCODER], "What to leave out of LoRAs: layers of a text encoder."
)
_BASE = flags.DEFINE_string(
    "base",
    "",
    "For a run of adapters: its base, if that has moved. For a LoRA: a model of the sizes that it"
    " fits (default: those of a config.json beside it, or the release's).",
)
_VERSION = flags.DEFINE_enum(
    "version", "v1.1", VERSIONS, "Version of a model that starts from FLUX.1."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of what FLUX.1 lacks and is drawn.")
_FRESH_TEXT = flags.DEFINE_bool(
    "fresh_text", False, "Draw FLUX.1's txt_in and vector_in, too, instead of taking them."
)


def _write_orbax(path: epath.Path, components: Components) -> None:
    """Write a folder for training.start_from, and for launch.edit."""
    weights = components["transformer"]
    assert isinstance(weights.config, ModelConfig)
    settings = {
        "sampling": as_json(sampling_of(weights)),
        "encoder": as_json(dataclasses.replace(encoder_of(weights), path="")),
    }
    write_weights_folder(path, weights.tensors, weights.config, settings)


def _with_entries(components: Components) -> Components:
    """Return the components with a run's settings as entries of a config.json."""
    return {
        name: dataclasses.replace(weights, settings=settings_json(weights))
        for name, weights in components.items()
    }


def _write_official(path: epath.Path, components: Components) -> None:
    write_official(path, _with_entries(components), _DEFAULTS)


def _write_diffusers(path: epath.Path, components: Components) -> None:
    write_diffusers(path, _with_entries(components))


# Format that --to names: how it is written, and which components it can hold.
_DEFAULTS = sampling_to_json(SamplingConfig()) | {n: getattr(EncoderConfig(), n) for n in READING}
TARGETS: dict[str, tuple[Callable[[epath.Path, Components], None], tuple[str, ...]]] = {
    "official": (_write_official, ("transformer", "vae")),
    "diffusers": (_write_diffusers, ("transformer", "vae")),
    "orbax": (_write_orbax, ("transformer",)),
}
_LORA_ONLY = ("kohya", "peft")
_TO = flags.DEFINE_enum("to", "official", [*TARGETS, *_LORA_ONLY], "The format to write.")
flags.adopt_module_key_flags(weights_flags)
keep_old_name("autoencoder", "vae")


def main() -> None:
    """Detect the format, open, check, and only then write."""
    source = model_path(_INPUT.value)
    if _INFO.value:
        print("\n".join(describe_weights(source, _sizes_for(source) if _BASE.value else None)))
        return
    if not _OUTPUT.value:
        raise UserError("--output is missing; --info says what the input is.")
    output = epath.Path(user_path(_OUTPUT.value))
    _check_output(output)
    if not source.exists():
        raise UserError(f"{source} does not exist; give a file or folder of weights.")
    if _TO.value in _LORA_ONLY or (
        _TO.value == "orbax" and detect_format_at(source).component == "adapters"
    ):
        _convert_lora(source, output)
    else:
        _convert_weights(source, output)


def _convert_weights(source: epath.Path, output: epath.Path) -> None:
    write, can_hold = TARGETS[_TO.value]
    scaled = _EIGHT_BITS.get(_DTYPE.value or "")
    components = _chosen(_opened(source, output), can_hold, output)
    check_writable(output)
    readings = {n: _readings(w.tensors, twice=scaled is True) for n, w in components.items()}
    total = sum(
        nbytes(w.tensors, n) * k for m, w in components.items() for n, k in readings[m].items()
    )
    with tqdm(total=total, unit="B", unit_scale=True, desc=_TO.value) as bar:
        for name, weights in components.items():
            tensors: Tensors = _Counted(weights.tensors, readings[name], bar)
            dtype = None
            if scaled is not None and name == "transformer":
                tensors = QuantizeToFp8(tensors, scaled=scaled)
            elif scaled is None and _DTYPE.value:
                dtype = np.dtype(jnp.dtype(_DTYPE.value))
                tensors = Cast(tensors, dtype)
            components[name] = _with(weights, tensors, dtype)
        write(output, components)
    print(f"{output}: {', '.join(components)}")
    if _TO.value == "diffusers" and any(SCALE in w.tensors.shapes for w in components.values()):
        print(FOLDED)
    if _TO.value == "diffusers" and len(components) > 1:
        print(f"Add Qwen2.5-VL as {output}/text_encoder and {output}/processor.")


def _check_output(output: epath.Path) -> None:
    """Check before long work that name, dtype and place fit the format, and nothing is there."""
    to = _TO.value
    if to in ("diffusers", "orbax") and output.suffix == SUFFIX:
        raise UserError(f"--to={to} writes a folder; give --output={output.stem}.")
    if to == "kohya" and output.suffix != SUFFIX:
        raise UserError(f"--output={output} should end in {SUFFIX}.")
    if _DTYPE.value in _EIGHT_BITS and to != "official":
        raise UserError(f"--dtype={_DTYPE.value} is for --to=official; ComfyUI reads no other.")
    if output.suffix != SUFFIX:
        check_local(output)
    if output.suffix == SUFFIX and str(_OUTPUT.value).endswith("/"):
        raise UserError(f"--output={_OUTPUT.value} ends as a folder and as a file; leave / out.")
    if output.exists():
        raise UserError(f"{output} exists; choose another name, or remove it first.")


def _opened(source: epath.Path, output: epath.Path) -> dict[str, Weights]:
    """Open the components of the input, with what the flags add to them."""
    loras = weights_flags.loras()
    weights = open_weights(
        source,
        base=model_path(_BASE.value) if _BASE.value else None,
        ema=weights_flags.EMA.value,
        loras=loras,
        # sums are rounded once, to the dtype that is asked for
        exact=_DTYPE.value not in (None, "bfloat16") or (bool(_DTYPE.value) and bool(loras)),
        flux=FluxStart(_VERSION.value, _SEED.value, _FRESH_TEXT.value),
        ignore=_IGNORE.value,
        temp_dir=tempfile.gettempdir() if is_remote(output) else output.parent,
        say=print,
    )
    if weights.format.component == "autoencoder":
        return {"vae": weights}
    components = {"transformer": weights}
    beside = locate_components(source).autoencoder if source.is_dir() else None
    if _VAE.value:
        components["vae"] = open_autoencoder(model_path(_VAE.value))
    elif beside is not None and beside.exists():
        components["vae"] = open_autoencoder(beside)
    return components


def _chosen(
    components: Components, can_hold: tuple[str, ...], output: epath.Path
) -> dict[str, Weights]:
    """Return the components that the output can hold; print what is left out."""
    chosen = {name: weights for name, weights in components.items() if name in can_hold}
    if output.suffix == SUFFIX and len(chosen) > 1:
        chosen = {"transformer": chosen["transformer"]}
    if _DTYPE.value in _EIGHT_BITS and "transformer" not in chosen:
        raise UserError(f"{_INPUT.value} is an autoencoder; only a model is written in 8 bits.")
    if not chosen:
        raise UserError(f"--to={_TO.value} is for a model; {_INPUT.value} is an autoencoder.")
    if left := components.keys() - chosen.keys():
        print(f"left out: {', '.join(left)}; a folder as --output of official or diffusers has it.")
    return chosen


def _sizes_for(lora: epath.Path) -> ModelConfig:
    """Return the sizes of the model that a LoRA is for."""
    return read_model_sizes(model_path(_BASE.value) if _BASE.value else lora)


def _opened_lora(source: epath.Path) -> tuple[Lora, ModelConfig]:
    """Open a run's adapters or a LoRA; return it with the sizes of the model that it is for."""
    if is_run(source):
        adapters = RunFolder(source, ema=weights_flags.EMA.value)
        return adapters.adapters(), adapters.model
    if weights_flags.EMA.value:
        raise no_average_error(source)
    if detect_format_at(source).component != "adapters":
        raise UserError(f"{source} is no LoRA, and --to={_TO.value} is a format of LoRAs alone.")
    sizes = _sizes_for(source)
    return open_lora(source, sizes, _IGNORE.value, print), sizes


def _convert_lora(source: epath.Path, output: epath.Path) -> None:
    if weights_flags.LORA.value:
        raise UserError(f"--lora is merged into a model, and --to={_TO.value} has none here.")
    lora, sizes = _opened_lora(source)
    check_writable(output)
    if _TO.value == "orbax":
        adapters, settings = to_adapters(lora, sizes)
        write_adapters_folder(output, adapters, sizes, settings)
        print(
            f"{output}: for lora.start_from, with lora.rank={settings.rank},"
            f" lora.alpha={settings.alpha:g}, lora.targets={settings.targets}"
        )
        return
    save = save_kohya if _TO.value == "kohya" else save_peft
    save(output, lora, _DTYPE.value)
    print(f"{output}: {len(lora.shapes)} adapted layers")
    dropped = [name for name in lora.shapes if name.startswith("connector.")]
    if _TO.value == "kohya" and dropped:
        print(
            f"warning: {len(dropped)} of these layers are the connector's, which ComfyUI drops: it"
            " has no such layers, so the LoRA acts there without them; merge it into its model"
            " (--lora) to keep them.",
            file=sys.stderr,
        )


class _Counted:
    """A reader that moves a progress bar by what is read of a tensor, so many times at most."""

    def __init__(self, source: Tensors, readings: Mapping[str, int], bar: tqdm):
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata
        self._source, self._bar = source, bar
        self._left = {name: nbytes(source, name) * times for name, times in readings.items()}

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        array = self._source.read(name, rows)
        counted = min(array.nbytes, self._left[name])
        self._left[name] -= counted
        self._bar.update(counted)
        return array


def _readings(tensors: Tensors, *, twice: bool) -> dict[str, int]:
    """Return how often each tensor is read: twice if it is scaled to 8 bits."""
    return {n: 1 + (twice and is_fp8_weight(n, shape)) for n, shape in tensors.shapes.items()}


def _with(weights: Weights, tensors: Tensors, dtype: np.dtype | None = None) -> Weights:
    config = weights.config
    if dtype is not None and isinstance(config, ModelConfig):
        config = dataclasses.replace(config, param_dtype=str(dtype))
    return dataclasses.replace(weights, tensors=tensors, config=config)


if __name__ == "__main__":
    run(main)
