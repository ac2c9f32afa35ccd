"""Weights from one form to another: launch/guides/weights.md.

    python -m launch.convert --input=runs/mine --output=out/mine.safetensors --dtype=bfloat16
    python -m launch.convert --input=runs/mine --to=diffusers --output=out/mine \
        --autoencoder=vae.safetensors
    python -m launch.convert --input=weights.safetensors --info

The input is recognised: a run's folder, an official file (v1.0, v1.1, autoencoder, FLUX.1), or
diffusers' folder of a model or a pipeline. Tensor by tensor, so that little memory is needed.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from tqdm import tqdm

from launch.command import run
from step1x_jax.conditioning.encoder import READING, EncoderConfig
from step1x_jax.convert.adapters import save_adapters
from step1x_jax.convert.diffusers_folder import FOLDED, SCALE
from step1x_jax.convert.flux import start_from_flux
from step1x_jax.convert.info import describe_weights, numbers_in_words, sizes_in_words
from step1x_jax.convert.keys import flat, model_table
from step1x_jax.convert.kinds import KINDS, Weights, open_weights, parts_of
from step1x_jax.convert.lora import LoraFile, merged
from step1x_jax.convert.targets import SUFFIX, Parts, write_diffusers, write_official
from step1x_jax.convert.tensors import Cast, Tensors
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable
from step1x_jax.json_files import build
from step1x_jax.models.config import VERSIONS, ModelConfig
from step1x_jax.sampling.config import sampling_from_json, sampling_to_json
from step1x_jax.training.checkpoint import (
    FOLDER,
    describe_newest,
    restore_adapters,
    restore_params,
)
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.weights_folder import ParameterTensors, opened_run, write_weights_folder

_INPUT = flags.DEFINE_string(
    "input", None, "A run's folder, a .safetensors file, or a folder with weights.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "The .safetensors file or the folder to make.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the tensors (default: as they are)."
)
_INFO = flags.DEFINE_bool("info", False, "Say what the input is, and convert nothing.")
_AUTOENCODER = flags.DEFINE_string(
    "autoencoder", None, "Its file or folder, to be written as a part beside the model."
)
_LORA = flags.DEFINE_multi_string("lora", [], "LoRA files to merge into the model.")
_LORA_SCALE = flags.DEFINE_multi_float("lora_scale", [1.0], "Strength of all, or of each.")
_BASE = flags.DEFINE_string("base", "", "The base of a LoRA run, if it has moved.")
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
    reading = {name: weights.fields[name] for name in READING if name in weights.fields}
    config.encoder = build(EncoderConfig, reading, str(weights.path))
    write_weights_folder(path, weights.tensors, config)


# What may be asked for: how it is written, and which parts it can hold.
TARGETS: dict[str, tuple[Callable[[epath.Path, Parts], None], tuple[str, ...]]] = {
    "official": (write_official, ("transformer", "vae")),
    "diffusers": (write_diffusers, ("transformer", "vae")),
    "orbax": (_write_orbax, ("transformer",)),
}
_TO = flags.DEFINE_enum("to", "official", [*TARGETS, "kohya"], "The form to write.")


def main() -> None:
    """Recognises, opens, checks, and only then writes."""
    source = epath.Path(_INPUT.value)
    if _INFO.value:
        print("\n".join(_info(source)))
        return
    if not _OUTPUT.value:
        raise UserError("--output is missing; --info says what the input is.")
    output = epath.Path(_OUTPUT.value)
    _check_output(output)
    if _TO.value == "kohya":
        _write_kohya(source, output)
        return
    write, can_hold = TARGETS[_TO.value]
    with _opened(source, output) as parts:
        parts = _chosen(parts, can_hold, output)
        if _DTYPE.value:
            dtype = np.dtype(jnp.dtype(_DTYPE.value))
            parts = {n: _with(w, Cast(w.tensors, dtype), dtype) for n, w in parts.items()}
        check_writable(output)
        total = sum(_bytes(weights.tensors) for weights in parts.values())
        with tqdm(total=total, unit="B", unit_scale=True, desc=_TO.value) as bar:
            counted = {n: _with(w, _Counted(w.tensors, bar)) for n, w in parts.items()}
            write(output, counted)
    print(f"{output}: {', '.join(parts)}")
    if _TO.value == "diffusers" and SCALE in parts["transformer"].tensors.shapes:
        print(FOLDED)
    if _TO.value == "diffusers" and len(parts) > 1:
        print(f"Add Qwen2.5-VL as {output}/text_encoder and {output}/processor.")


def _check_output(output: epath.Path) -> None:
    """Before long work: the name fits the form, and nothing is there."""
    if _TO.value in ("diffusers", "orbax") and output.suffix == SUFFIX:
        raise UserError(f"--to={_TO.value} writes a folder; give --output={output.stem}.")
    if _TO.value == "kohya" and output.suffix != SUFFIX:
        raise UserError(f"--output={output} should end in {SUFFIX}.")
    if output.exists():
        raise UserError(f"{output} exists; choose another name, or remove it first.")


@contextlib.contextmanager
def _opened(source: epath.Path, output: epath.Path) -> Iterator[dict[str, Weights]]:
    """The parts of the input, with what the flags add to them."""
    with contextlib.ExitStack() as stack:
        if (source / FOLDER).is_dir():
            parts = {"transformer": stack.enter_context(_opened_run(source, output.parent))}
        else:
            parts = {name: open_weights(path) for name, path in parts_of(source).items()}
        if _AUTOENCODER.value:
            parts["vae"] = open_weights(_AUTOENCODER.value)
            if KINDS[parts["vae"].kind].holds != "autoencoder":
                raise UserError(f"--autoencoder={_AUTOENCODER.value} is no autoencoder.")
        model = parts.get("transformer")
        if model is not None and model.kind.startswith("flux"):
            parts["transformer"] = _started(model)
        if _LORA.value:
            if model is None:
                raise UserError(f"--lora is for a model; {source} is an autoencoder.")
            parts["transformer"] = _merged(parts["transformer"])
        yield parts


@contextlib.contextmanager
def _opened_run(source: epath.Path, beside: epath.Path) -> Iterator[Weights]:
    """A run's model; adapters merged into their base, which then is in memory as a whole."""
    with contextlib.ExitStack() as stack:
        if describe_newest(source)[1].lora.rank:
            params, config = restore_params(source, base=_BASE.value)
            tensors = ParameterTensors(config.model, flat(params))
        else:
            tensors, config = stack.enter_context(opened_run(source, beside))
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


class _Merged:
    """A model with LoRA files merged into it."""

    def __init__(self, source: Tensors, config: ModelConfig, loras: list[tuple[str, float]]):
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata
        table = model_table(config)
        opened = [(LoraFile(path, table), scale) for path, scale in loras]
        self._read = merged(lambda name, rows=None: source.read(name), opened)

    def read(self, name: str) -> np.ndarray:
        return self._read(name)


def _merged(weights: Weights) -> Weights:
    scales = _LORA_SCALE.value * (len(_LORA.value) if len(_LORA_SCALE.value) == 1 else 1)
    if len(scales) != len(_LORA.value):
        raise UserError(f"there are {len(_LORA.value)} --lora and {len(scales)} --lora_scale.")
    assert isinstance(weights.config, ModelConfig)
    loras = list(zip(_LORA.value, scales, strict=True))
    return _with(weights, _Merged(weights.tensors, weights.config, loras))


def _chosen(parts: Parts, can_hold: tuple[str, ...], output: epath.Path) -> dict[str, Weights]:
    """The parts that the output can hold; says what it leaves out."""
    chosen = {name: weights for name, weights in parts.items() if name in can_hold}
    if output.suffix == SUFFIX and len(chosen) > 1:
        chosen = {"transformer": chosen["transformer"]}
    if not chosen:
        raise UserError(f"--to={_TO.value} is for a model; {_INPUT.value} is an autoencoder.")
    if left := parts.keys() - chosen.keys():
        print(f"left out: {', '.join(left)}; a folder as --output of official or diffusers has it.")
    return chosen


def _write_kohya(source: epath.Path, output: epath.Path) -> None:
    adapters, config = restore_adapters(source)
    save_adapters(output, adapters, config.model, config.lora, _DTYPE.value)
    print(f"{output}: rank {config.lora.rank}, alpha {config.lora.alpha:g}")


def _info(source: epath.Path) -> list[str]:
    if not (source / FOLDER).is_dir():
        return [line for path in parts_of(source).values() for line in describe_weights(path)]
    step, config, arrays = describe_newest(source)
    lines = [str(source), f"  kind     a run's folder, step {step}"]
    lines.append(f"  sizes    {sizes_in_words(config.model)}")
    if config.lora.rank:
        lines.append(f"  adapters rank {config.lora.rank}, alpha {config.lora.alpha:g}")
    return lines + numbers_in_words(_Described(arrays))


class _Described:
    """What a checkpoint says of its arrays, as a reader that does not read."""

    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, arrays: dict[str, dict]):
        self.shapes = {name: tuple(about["shape"]) for name, about in arrays.items()}
        self.dtypes = {n: np.dtype(jnp.dtype(about["dtype"])) for n, about in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        raise NotImplementedError


class _Counted:
    """A reader that moves a progress bar, at the first reading of a tensor."""

    def __init__(self, source: Tensors, bar: tqdm):
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata
        self._source, self._bar = source, bar
        self._seen: set[str] = set()

    def read(self, name: str) -> np.ndarray:
        array = self._source.read(name)
        if name not in self._seen:
            self._seen.add(name)
            self._bar.update(array.nbytes)
        return array


def _with(weights: Weights, tensors: Tensors, dtype: np.dtype | None = None) -> Weights:
    config = weights.config
    if dtype is not None and isinstance(config, ModelConfig):
        config = dataclasses.replace(config, param_dtype=str(dtype))
    return dataclasses.replace(weights, tensors=tensors, config=config)


def _bytes(tensors: Tensors) -> int:
    sizes = (np.prod(s, dtype=int) * tensors.dtypes[n].itemsize for n, s in tensors.shapes.items())
    return int(sum(sizes))


if __name__ == "__main__":
    run(main)
