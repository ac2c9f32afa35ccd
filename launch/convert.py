"""Weights from one form to another: launch/guides/weights.md.

    python -m launch.convert --input=runs/mine --output=out/mine.safetensors --dtype=bfloat16
    python -m launch.convert --input=runs/mine --to=diffusers --output=out/mine \
        --autoencoder=vae.safetensors
    python -m launch.convert --input=runs/lora --to=kohya --output=out/lora.safetensors
    python -m launch.convert --input=weights.safetensors --info

The input is recognised: a run's folder, an official file (v1.0, v1.1, autoencoder, FLUX.1),
diffusers' folder of a model or a pipeline, either in 8 bits, or a LoRA (kohya, PEFT, diffusers).
Tensor by tensor, so that little memory is needed.
"""

import contextlib
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from tqdm import tqdm

from launch.command import run
from step1x_jax.conditioning.encoder import READING, EncoderConfig, stored_reading
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.errors import UserError
from step1x_jax.files import check_local, check_writable, is_remote, user_path
from step1x_jax.json_files import build
from step1x_jax.models.config import VERSIONS, ModelConfig
from step1x_jax.sampling.config import SamplingConfig, sampling_from_json, sampling_to_json
from step1x_jax.training.checkpoint import describe_newest, restore_adapters
from step1x_jax.training.config import TrainConfig
from step1x_jax.weights.diffusers_folder import FOLDED, SCALE
from step1x_jax.weights.files.fp8 import InFp8, stored_in_fp8
from step1x_jax.weights.files.opening import open_file
from step1x_jax.weights.flux import start_from_flux
from step1x_jax.weights.info import describe_weights, numbers_in_words, sizes_in_words
from step1x_jax.weights.kinds import (
    KINDS,
    Weights,
    kind_of,
    open_weights,
    parts_of,
    sizes_beside,
)
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.lora.adapters import Adapters, adapters_of
from step1x_jax.weights.lora.file import TEXT_ENCODER, Lora, LoraFile
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.lora.writers import save_kohya, save_peft
from step1x_jax.weights.readers import Cast, Tensors
from step1x_jax.weights.run.folder import FOLDER
from step1x_jax.weights.run.reader import opened_run
from step1x_jax.weights.run.writer import write_adapters_folder, write_weights_folder
from step1x_jax.weights.save import SUFFIX, Parts, write_diffusers, write_official

_INPUT = flags.DEFINE_string(
    "input", None, "A run's folder, a .safetensors file, or a folder with weights.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "The .safetensors file or the folder to make.")
_EIGHT_BITS = {"float8_e4m3fn": False, "float8_e4m3fn_scaled": True}  # with a scale for each weight
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", *_EIGHT_BITS],
    "Of the tensors (default: as they are; bfloat16 for what is in 8 bits).",
)
_INFO = flags.DEFINE_bool("info", False, "Say what the input is, and convert nothing.")
_AUTOENCODER = flags.DEFINE_string(
    "autoencoder", None, "Its file or folder, to be written as a part beside the model."
)
_LORA = flags.DEFINE_multi_string(
    "lora", [], "LoRA to merge into the model: a file or folder of any kind, or a run of adapters."
)
_IGNORE = flags.DEFINE_multi_enum(
    "ignore", [], [TEXT_ENCODER], "What to leave out of LoRAs: layers of a text encoder."
)
_LORA_SCALE = flags.DEFINE_multi_float("lora_scale", [1.0], "Strength of all, or of each.")
_BASE = flags.DEFINE_string(
    "base",
    "",
    "Of a run of adapters: its base, if that has moved. Of a LoRA: a model of the sizes that it is"
    " for (default: those of a config.json beside it, or the release's).",
)
_VERSION = flags.DEFINE_enum("version", "v1.1", VERSIONS, "Of a model that starts from FLUX.1.")
_SEED = flags.DEFINE_integer("seed", 0, "Of what FLUX.1 lacks and is drawn.")
_FRESH_TEXT = flags.DEFINE_bool(
    "fresh_text", False, "Draw FLUX.1's txt_in and vector_in, too, instead of taking them."
)


def _write_orbax(path: epath.Path, parts: Parts) -> None:
    """A folder for training.start_from, and for launch.edit."""
    weights = parts["transformer"]
    config = TrainConfig()
    assert isinstance(weights.config, ModelConfig)
    config.model = weights.config
    config.sampling = sampling_from_json(dict(weights.fields))
    reading = stored_reading(weights.fields)
    config.encoder = build(EncoderConfig, reading, str(weights.path))
    write_weights_folder(path, weights.tensors, config)


# What may be asked for: how it is written, and which parts it can hold.
_DEFAULTS = sampling_to_json(SamplingConfig()) | {n: getattr(EncoderConfig(), n) for n in READING}
TARGETS: dict[str, tuple[Callable[[epath.Path, Parts], None], tuple[str, ...]]] = {
    "official": (functools.partial(write_official, defaults=_DEFAULTS), ("transformer", "vae")),
    "diffusers": (write_diffusers, ("transformer", "vae")),
    "orbax": (_write_orbax, ("transformer",)),
}
_LORA_ONLY = ("kohya", "peft")
_TO = flags.DEFINE_enum("to", "official", [*TARGETS, *_LORA_ONLY], "The form to write.")


def main() -> None:
    """Recognises, opens, checks, and only then writes."""
    source = _place(_INPUT.value)
    if _INFO.value:
        print("\n".join(_info(source)))
        return
    if not _OUTPUT.value:
        raise UserError("--output is missing; --info says what the input is.")
    output = epath.Path(user_path(_OUTPUT.value))
    _check_output(output)
    scales = _scales()
    if _TO.value in _LORA_ONLY or (_TO.value == "orbax" and _is_lora(source)):
        _convert_lora(source, output)
    else:
        _convert_weights(source, output, scales)


def _place(given: str) -> epath.Path:
    """A path as given, or the model that ships with the package."""
    return QUICKSTART if given == "quickstart" else epath.Path(user_path(given))


def _scales() -> list[float]:
    """The strength of each --lora."""
    scales = _LORA_SCALE.value * (len(_LORA.value) if len(_LORA_SCALE.value) == 1 else 1)
    if len(scales) != len(_LORA.value):
        raise UserError(f"there are {len(_LORA.value)} --lora and {len(scales)} --lora_scale.")
    return scales


def _convert_weights(source: epath.Path, output: epath.Path, scales: Sequence[float]) -> None:
    write, can_hold = TARGETS[_TO.value]
    scaled = _EIGHT_BITS.get(_DTYPE.value or "")
    with _opened(source, output, scales) as parts:
        parts = _chosen(parts, can_hold, output)
        check_writable(output)
        readings = {n: _readings(w.tensors, twice=scaled is True) for n, w in parts.items()}
        total = sum(_nbytes(w.tensors, n) * k for m, w in parts.items()
                    for n, k in readings[m].items())  # fmt: skip
        with tqdm(total=total, unit="B", unit_scale=True, desc=_TO.value) as bar:
            for name, weights in parts.items():
                tensors: Tensors = _Counted(weights.tensors, readings[name], bar)
                dtype = None
                if scaled is not None and name == "transformer":
                    tensors = InFp8(tensors, scaled=scaled)
                elif scaled is None and _DTYPE.value:
                    dtype = np.dtype(jnp.dtype(_DTYPE.value))
                    tensors = Cast(tensors, dtype)
                parts[name] = _with(weights, tensors, dtype)
            write(output, parts)
    print(f"{output}: {', '.join(parts)}")
    if _TO.value == "diffusers" and any(SCALE in w.tensors.shapes for w in parts.values()):
        print(FOLDED)
    if _TO.value == "diffusers" and len(parts) > 1:
        print(f"Add Qwen2.5-VL as {output}/text_encoder and {output}/processor.")


def _check_output(output: epath.Path) -> None:
    """Before long work: name, dtype and place fit the form, and nothing is there."""
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


@contextlib.contextmanager
def _opened(
    source: epath.Path, output: epath.Path, scales: Sequence[float]
) -> Iterator[dict[str, Weights]]:
    """The parts of the input, with what the flags add to them."""
    with contextlib.ExitStack() as stack:
        if (source / FOLDER).is_dir():
            beside = tempfile.gettempdir() if is_remote(output) else output.parent
            parts = {"transformer": stack.enter_context(_opened_run(source, epath.Path(beside)))}
        else:
            rounded = _DTYPE.value in (None, "bfloat16") and not _LORA.value
            eight = "bfloat16" if rounded else "float32"
            parts = {name: open_weights(path, eight) for name, path in parts_of(source).items()}
        if _AUTOENCODER.value:
            autoencoder = _place(_AUTOENCODER.value)
            parts["vae"] = open_weights(parts_of(autoencoder).get("vae", autoencoder))
            if KINDS[parts["vae"].kind].holds != "autoencoder":
                raise UserError(f"--autoencoder={_AUTOENCODER.value} is no autoencoder.")
        model = parts.get("transformer")
        if model is not None and model.kind.startswith("flux"):
            parts["transformer"] = _started(model)
        if _LORA.value:
            if model is None:
                raise UserError(f"--lora is for a model; {source} is an autoencoder.")
            parts["transformer"] = _merged(parts["transformer"], source, scales)
        yield parts


@contextlib.contextmanager
def _opened_run(source: epath.Path, beside: epath.Path) -> Iterator[Weights]:
    """A run's model; adapters merged into their base."""
    base = str(_place(_BASE.value)) if _BASE.value else ""
    exact = _LORA.value or _DTYPE.value not in (None, "bfloat16")
    sums = "float32" if exact else _DTYPE.value
    with opened_run(source, beside, base=base, sums=sums) as (tensors, config):
        fields = sampling_to_json(config.sampling)
        fields |= {name: getattr(config.encoder, name) for name in READING}
        yield Weights(source, "run", tensors, config.model, fields)


def _started(flux: Weights) -> Weights:
    start = start_from_flux(
        flux, version=_VERSION.value, seed=_SEED.value, fresh_text=_FRESH_TEXT.value
    )
    print(f"drawn with seed {_SEED.value}: {', '.join(start.fresh)}")
    print(f"left out: {', '.join(start.left_over) or 'nothing'}")
    return start.weights


def _merged(weights: Weights, source: epath.Path, scales: Sequence[float]) -> Weights:
    """The model with the LoRAs added: float32 sums, rounded once."""
    assert isinstance(weights.config, ModelConfig)
    table = model_table(weights.config)
    loras: list[tuple[Lora, float]] = []
    for path, scale in zip(map(_place, _LORA.value), scales, strict=True):
        if (path / FOLDER).is_dir():
            lora = _opened_lora(path)[0]
        else:
            lora = _opened_file(path, weights.config)
        for module, shape in lora.shapes.items():  # a file has been compared already
            if module + ".weight" not in table or table[module + ".weight"].shape != shape:
                raise UserError(
                    f"{path} adapts {module} of {list(shape)}; it is for another model."
                )
        loras.append((lora, scale))
    if _DTYPE.value is None and weights.kind != "run":
        dtypes = open_weights(parts_of(source)["transformer"]).tensors.dtypes  # 8 bits as bfloat16
        dtypes = {name: dtypes.get(name, dtype) for name, dtype in weights.tensors.dtypes.items()}
    elif _DTYPE.value is None:
        stored = np.dtype(jnp.dtype(weights.config.param_dtype))
        dtypes = dict.fromkeys(weights.tensors.dtypes, stored)
    else:
        asked = "float32" if _DTYPE.value in _EIGHT_BITS else _DTYPE.value
        dtypes = dict.fromkeys(weights.tensors.dtypes, np.dtype(jnp.dtype(asked)))
    return _with(weights, Merged(weights.tensors, loras, dtypes))


def _opened_file(path: epath.Path, sizes: ModelConfig) -> LoraFile:
    """A LoRA of others; says what of it does nothing."""
    lora = LoraFile(path, model_table(sizes), _IGNORE.value)
    if lora.left_out:
        print(f"{path}: left out: {len(lora.left_out)} tensors of a text encoder")
    if lora.switched_off:
        few = ", ".join(lora.switched_off[:3])
        more = f" and {len(lora.switched_off) - 3} more" if len(lora.switched_off) > 3 else ""
        print(f"{path}: switched off, by an alpha of 0: {few}{more}")
    return lora


def _chosen(parts: Parts, can_hold: tuple[str, ...], output: epath.Path) -> dict[str, Weights]:
    """The parts that the output can hold; says what it leaves out."""
    chosen = {name: weights for name, weights in parts.items() if name in can_hold}
    if output.suffix == SUFFIX and len(chosen) > 1:
        chosen = {"transformer": chosen["transformer"]}
    if _DTYPE.value in _EIGHT_BITS and "transformer" not in chosen:
        raise UserError(f"{_INPUT.value} is an autoencoder; only a model is written in 8 bits.")
    if not chosen:
        raise UserError(f"--to={_TO.value} is for a model; {_INPUT.value} is an autoencoder.")
    if left := parts.keys() - chosen.keys():
        print(f"left out: {', '.join(left)}; a folder as --output of official or diffusers has it.")
    return chosen


def _is_lora(source: epath.Path) -> bool:
    """Whether the input is a LoRA of others; a run of adapters is not, for it names its base."""
    if (source / FOLDER).is_dir() or (source / "transformer").is_dir() or not source.exists():
        return False
    file = open_file(source)
    return KINDS[kind_of(file, source)].holds == "adapters"


def _opened_lora(source: epath.Path) -> tuple[Lora, ModelConfig]:
    """A run's adapters or a LoRA, and the sizes of the model that it is for."""
    if (source / FOLDER).is_dir():
        adapters, config = restore_adapters(source)
        return Adapters(adapters, config.model, config.lora), config.model
    if source.exists() and not _is_lora(source):
        raise UserError(f"{source} is no LoRA, and --to={_TO.value} is a form of LoRAs alone.")
    sizes = _sizes_for(source)
    return _opened_file(source, sizes), sizes


def _sizes_for(lora: epath.Path) -> ModelConfig:
    """Of the model that a LoRA is for."""
    base = _place(_BASE.value) if _BASE.value else lora
    if not _BASE.value:
        return sizes_beside(lora)
    if (base / FOLDER).is_dir():
        return describe_newest(base)[1].model
    config = open_weights(parts_of(base).get("transformer", base)).config
    if not isinstance(config, ModelConfig):
        raise UserError(f"--base={_BASE.value} is an autoencoder.")
    return config


def _convert_lora(source: epath.Path, output: epath.Path) -> None:
    if _LORA.value:
        raise UserError(f"--lora is merged into a model, and --to={_TO.value} has none here.")
    lora, sizes = _opened_lora(source)
    check_writable(output)
    if _TO.value == "orbax":
        adapters, settings = adapters_of(lora, sizes)
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


def _info(source: epath.Path) -> list[str]:
    if not (source / FOLDER).is_dir():
        sizes = _sizes_for(source) if _BASE.value else None
        paths = parts_of(source).values()
        return [line for path in paths for line in describe_weights(path, sizes)]
    step, config, arrays = describe_newest(source)
    lines = [str(source), f"  kind     a run's folder, step {step}"]
    lines.append(f"  sizes    {sizes_in_words(config.model)}")
    if config.lora.rank:
        lines.append(f"  adapters rank {config.lora.rank}, alpha {config.lora.alpha:g}")
    shapes = {name: tuple(about["shape"]) for name, about in arrays.items()}
    dtypes = {name: np.dtype(jnp.dtype(about["dtype"])) for name, about in arrays.items()}
    return lines + numbers_in_words(shapes, dtypes)


class _Counted:
    """A reader that moves a progress bar, at the first readings of a tensor."""

    def __init__(self, source: Tensors, readings: Mapping[str, int], bar: tqdm):
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata
        self._source, self._left, self._bar = source, dict(readings), bar

    def read(self, name: str) -> np.ndarray:
        array = self._source.read(name)
        if self._left[name]:
            self._left[name] -= 1
            self._bar.update(array.nbytes)
        return array


def _readings(tensors: Tensors, *, twice: bool) -> dict[str, int]:
    """How often each tensor is read; what is scaled to 8 bits, twice."""
    return {n: 1 + (twice and stored_in_fp8(n, shape)) for n, shape in tensors.shapes.items()}


def _with(weights: Weights, tensors: Tensors, dtype: np.dtype | None = None) -> Weights:
    config = weights.config
    if dtype is not None and isinstance(config, ModelConfig):
        config = dataclasses.replace(config, param_dtype=str(dtype))
    return dataclasses.replace(weights, tensors=tensors, config=config)


def _nbytes(tensors: Tensors, name: str) -> int:
    return int(np.prod(tensors.shapes[name], dtype=int)) * tensors.dtypes[name].itemsize


if __name__ == "__main__":
    run(main)
