"""Turn edits (source, target, instruction) into training data: launch/guides/data.md.

python -m launch.precompute --input=edits.jsonl --output=data/edits --size=512 \
    --text_encoder=Qwen2.5-VL-7B-Instruct --vae=vae.safetensors

May be interrupted and started again. Ends with exit code 3 if a row or picture could not be used.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from launch.shared.command import run
from launch.shared.exit_codes import SOME_FAILED
from launch.shared.old_names import keep_old_name
from launch.shared.record_models import load_models
from step1x_jax.conditioning.encoder import DTYPES, IMPLEMENTATIONS, EncoderConfig
from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.conditioning.prompt import QUOTINGS
from step1x_jax.data.batch_encoder import Models
from step1x_jax.data.chunks import Input
from step1x_jax.data.manifest import MANIFEST, MAX_WEIGHT, REJECTED, BadRow
from step1x_jax.data.paths import make_printable
from step1x_jax.data.precompute import MAX_SIZE_LEVEL, PrecomputeResult, make_settings, precompute
from step1x_jax.data.sources import read_triplets
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable, is_remote, user_path
from step1x_jax.parallel.mesh import MeshConfig, make_mesh

_DEFAULTS = EncoderConfig()
_INPUT = flags.DEFINE_multi_string(
    "input", None, "A list or folder of edits; may be given several times.", required=True
)
_WEIGHTS = flags.DEFINE_list(
    "weights", [], "Shares of the inputs in what training draws, such as 3,1 (default: by size)."
)
_ROOT = flags.DEFINE_string(
    "root", None, "Folder where the paths in lists start (default: the folder of each list)."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the data set.", required=True)
_TEXT_ENCODER = flags.DEFINE_string("text_encoder", None, "The Qwen2.5-VL folder.", required=True)
_IMPLEMENTATION = flags.DEFINE_enum(
    "text_encoder_implementation",
    "jax",
    IMPLEMENTATIONS,
    "What runs it: ours, or transformers with PyTorch.",
)
_VAE = flags.DEFINE_string("vae", None, "The autoencoder's file or folder.", required=True)
_SIZE = flags.DEFINE_integer(
    "size", 512, "Size level: about size^2 pixels.", lower_bound=32, upper_bound=MAX_SIZE_LEVEL
)
_BATCH = flags.DEFINE_integer(
    "batch_size", 4, "Edits encoded at once, on each device.", lower_bound=1, upper_bound=100_000
)
_CHUNK = flags.DEFINE_integer(
    "part_size", 1024, "Edits in a chunk, which is done or not done as a whole.", lower_bound=1
)
_MIN_KEPT = flags.DEFINE_float(
    "min_kept",
    0.7,
    "Smallest fraction of a picture that its crop may keep; other edits are left out.",
)
_NEGATIVES = flags.DEFINE_float(
    "negatives", 1.0, "Fraction of the edits that also get the embedding of the empty instruction."
)
_MIN_PIXELS = flags.DEFINE_integer(
    "min_pixels", _DEFAULTS.min_pixels, "Fewest pixels that the text encoder sees."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", _DEFAULTS.max_pixels, "Most pixels; 28 x 28 are a token."
)
_TEXT_LENGTH = flags.DEFINE_integer(
    "text_length", _DEFAULTS.text_length, "Tokens kept of picture and instruction."
)
_QUOTING = flags.DEFINE_enum(
    "quoting", _DEFAULTS.quoting, QUOTINGS, "Rule for quoted text; the releases use published."
)
_LABEL = flags.DEFINE_bool(
    "picture_label",
    _DEFAULTS.picture_label,
    "Put 'Picture 1: ' before the picture; the releases do not.",
)
_DTYPE = flags.DEFINE_enum(
    "text_encoder_dtype", _DEFAULTS.dtype, DTYPES, "Arithmetic of the text encoder."
)
_FSDP = flags.DEFINE_integer(
    "fsdp",
    -1,
    "Devices of this machine that share one copy of the text encoder (-1: all).",
    lower_bound=-1,
)
_THREADS = flags.DEFINE_integer(
    "threads",
    None,
    "Threads that read pictures (default: one per core).",
    lower_bound=1,
    upper_bound=1000,
)
_PROCESS = flags.DEFINE_integer("process_index", None, "Number of this process (default: JAX's).")
_PROCESSES = flags.DEFINE_integer(
    "process_count", None, "Processes that share the work on the output (default: JAX's)."
)
keep_old_name("qwen", "text_encoder")
keep_old_name("encoder", "text_encoder_implementation")
keep_old_name("encoder_dtype", "text_encoder_dtype")
keep_old_name("autoencoder", "vae")

TOLD = 20  # rows that are named on stderr; all are in the list of rejected rows


def main() -> int:
    """Read the lists, make the data set or this process's share, tell what was left out."""
    config = EncoderConfig(
        path=user_path(_TEXT_ENCODER.value),
        min_pixels=_MIN_PIXELS.value,
        max_pixels=_MAX_PIXELS.value,
        text_length=_TEXT_LENGTH.value,
        quoting=_QUOTING.value,
        picture_label=_LABEL.value,
        dtype=_DTYPE.value,
    )
    config.validate()
    index, count = which_process()
    output = epath.Path(user_path(_OUTPUT.value))
    autoencoder = user_path(_VAE.value)
    settings = make_settings(_SIZE.value, config, autoencoder, _NEGATIVES.value, _MIN_KEPT.value)
    devices = jax.local_devices()
    fsdp = len(devices) if _FSDP.value == -1 else _FSDP.value
    mesh = make_mesh(MeshConfig(data=-1, fsdp=fsdp), devices) if len(devices) > 1 else None
    inputs = read_inputs()
    with no_empty_folders(output):
        check_writable(output / MANIFEST)
        return make(inputs, output, settings, config, autoencoder, mesh, (index, count))


def make(
    inputs: list[Input],
    output: epath.Path,
    settings: dict[str, Any],
    config: EncoderConfig,
    autoencoder: str,
    mesh: Mesh | None,
    process: tuple[int, int],
) -> int:
    """Make the data set or this process's share, and tell about it; give the exit code."""
    index, count = process
    told = itertools.count(1)

    def load() -> Models:
        return load_models(config, autoencoder, mesh, _IMPLEMENTATION.value)

    with tqdm(total=sum(len(one.triplets) for one in inputs) // count, unit="edit") as bar:

        def on_row(bad: BadRow | None) -> None:
            bar.update()
            if bad is not None:
                report(bad)

        def report(bad: BadRow) -> None:
            if (number := next(told)) <= TOLD:
                bar.write(f"left out {bad.row}: {bad.reason}", file=sys.stderr)
            elif number == TOLD + 1:
                bar.write(f"more is left out, see {output / REJECTED} at the end", file=sys.stderr)

        if index == 0:
            for one in inputs:
                for bad in one.bad_rows:
                    report(bad)
        outcome = precompute(
            inputs,
            output,
            settings,
            load,
            chunk_size=_CHUNK.value,
            batch_size=_BATCH.value * jax.local_device_count(),
            threads=_THREADS.value,
            process_index=index,
            process_count=count,
            on_row=on_row,
        )
    return tell(outcome, output)


def which_process() -> tuple[int, int]:
    """Number of this process and of all."""
    index = jax.process_index() if _PROCESS.value is None else _PROCESS.value
    count = jax.process_count() if _PROCESSES.value is None else _PROCESSES.value
    if not 0 <= index < count:
        raise UserError(
            f"--process_index={index} with --process_count={count}: number the processes from 0."
        )
    return index, count


def read_inputs() -> list[Input]:
    """The lists of edits with their weights."""
    weights: list[float | None] = [None] * len(_INPUT.value)
    if _WEIGHTS.value:
        weights = [float_or_fail(weight) for weight in _WEIGHTS.value]
    if len(weights) != len(_INPUT.value):
        raise UserError(
            f"--weights has {len(weights)} numbers for {len(_INPUT.value)} of --input; give one"
            " for each, or none."
        )
    root = None if _ROOT.value is None else user_path(_ROOT.value)
    return [
        Input(
            make_printable(epath.Path(user_path(path)).name),
            *read_triplets(path, root),
            weight=weight,
        )
        for path, weight in zip(map(user_path, _INPUT.value), weights, strict=True)
    ]


def float_or_fail(text: str) -> float:
    """A positive number."""
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= MAX_WEIGHT:
        raise UserError(f"--weights: {text!r} is no positive number; write it like 3,1.")
    return weight


@contextlib.contextmanager
def no_empty_folders(output: epath.Path) -> Iterator[None]:
    """Remove what the block made of a folder and those above it, if they are empty at its end."""
    above = [] if is_remote(output) else [output, *output.parents]
    new = list(itertools.takewhile(lambda path: not path.exists(), above))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for path in new:
                os.rmdir(path)


def tell(outcome: PrecomputeResult, output: epath.Path) -> int:
    """Print what was done; give the exit code."""
    if outcome.pictures:
        print(
            f"{outcome.pictures} pictures in {outcome.seconds:.1f} s:"
            f" {outcome.pictures / outcome.seconds:.1f} a second; the devices waited"
            f" {outcome.waited / outcome.seconds:.0%} of the time."
        )
    manifest = outcome.manifest
    if manifest is None:
        print(
            f"{output}: this share is done; {outcome.missing} chunks of other processes are"
            f" missing, the last one to end writes {MANIFEST}."
        )
    else:
        pixels = [(w * PIXELS_PER_LATENT, h * PIXELS_PER_LATENT) for h, w in manifest.buckets]
        shapes = ", ".join(f"{w}x{h}" for w, h in pixels) or "none"
        print(f"{output}: {manifest.records} edits in {len(manifest.shards)} shards ({shapes}).")
    if outcome.bad_rows:
        where = f"see {output}/{REJECTED}" if manifest else "see above"
        print(f"{len(outcome.bad_rows)} rows could not be used, {where}.", file=sys.stderr)
        return SOME_FAILED
    return 0


if __name__ == "__main__":
    run(main)
