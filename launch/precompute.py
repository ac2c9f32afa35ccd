"""Turns edits (source, target, instruction) into training data: launch/guides/data.md.

python -m launch.precompute --input=edits.jsonl --output=data/edits --size=512 \
    --encoder=Qwen2.5-VL-7B-Instruct --autoencoder=vae.safetensors

May be interrupted and started again. Ends with exit code 3 if a row or picture could not be used.
"""

import sys

import numpy as np
from absl import flags
from etils import epath
from flax import nnx
from tqdm import tqdm

from launch.command import run
from step1x_jax.conditioning.encoder import DTYPES, Encoder, EncoderConfig, TransformersEncoder
from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.conditioning.prompt import QUOTINGS
from step1x_jax.convert.official import load_autoencoder
from step1x_jax.data.manifest import MANIFEST, BadRow
from step1x_jax.data.precompute import EncodeImages, make_settings, precompute
from step1x_jax.data.sources import read_triplets
from step1x_jax.files import check_writable
from step1x_jax.models.autoencoder import Autoencoder

_DEFAULTS = EncoderConfig()
_INPUT = flags.DEFINE_string("input", None, "A .jsonl or .json file of edits.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the data set.", required=True)
_ENCODER = flags.DEFINE_string("encoder", None, "Folder of Qwen2.5-VL.", required=True)
_AUTOENCODER = flags.DEFINE_string("autoencoder", None, "Its file or folder.", required=True)
_SIZE = flags.DEFINE_integer("size", 512, "Size level: about size^2 pixels.", lower_bound=32)
_BATCH = flags.DEFINE_integer("batch_size", 8, "Edits encoded at once.", lower_bound=1)
_PART = flags.DEFINE_integer(
    "part_size", 1024, "Edits that are done or not done as a whole.", lower_bound=1
)
_MIN_PIXELS = flags.DEFINE_integer("min_pixels", _DEFAULTS.min_pixels, "Fewest pixels it sees.")
_MAX_PIXELS = flags.DEFINE_integer("max_pixels", _DEFAULTS.max_pixels, "Most; 28 x 28 are a token.")
_TEXT_LENGTH = flags.DEFINE_integer(
    "text_length", _DEFAULTS.text_length, "Tokens kept of picture and instruction."
)
_QUOTING = flags.DEFINE_enum(
    "quoting", _DEFAULTS.quoting, QUOTINGS, "The rule for quoted text; releases: published."
)
_DTYPE = flags.DEFINE_enum("encoder_dtype", _DEFAULTS.dtype, DTYPES, "Arithmetic of the encoder.")

BAD_ROWS = 3


def main() -> int:
    """Reads the list, makes the data set, tells what was left out."""
    config = EncoderConfig(
        path=_ENCODER.value,
        min_pixels=_MIN_PIXELS.value,
        max_pixels=_MAX_PIXELS.value,
        text_length=_TEXT_LENGTH.value,
        quoting=_QUOTING.value,
        dtype=_DTYPE.value,
    )
    config.validate()
    settings = make_settings(_SIZE.value, config, _AUTOENCODER.value)
    check_writable(epath.Path(_OUTPUT.value) / MANIFEST)
    triplets, bad_rows = read_triplets(_INPUT.value)

    def load_models() -> tuple[Encoder, EncodeImages]:
        autoencoder = load_autoencoder(_AUTOENCODER.value)
        encode = nnx.jit(Autoencoder.encode)
        return TransformersEncoder(config), lambda images: np.asarray(encode(autoencoder, images))

    with tqdm(total=len(triplets), desc="precompute", unit="edit") as bar:

        def on_row(bad: BadRow | None) -> None:
            bar.update()
            if bad is not None:
                report(bad)

        def report(bad: BadRow) -> None:
            bar.write(f"left out {bad.row}: {bad.reason}", file=sys.stderr)

        for bad in bad_rows:
            report(bad)
        manifest = precompute(
            triplets,
            _OUTPUT.value,
            settings,
            load_models,
            bad_rows=bad_rows,
            part_size=_PART.value,
            batch_size=_BATCH.value,
            on_row=on_row,
        )
    pixels = [(w * PIXELS_PER_LATENT, h * PIXELS_PER_LATENT) for h, w in manifest.buckets]
    shapes = ", ".join(f"{w}x{h}" for w, h in pixels) or "none"
    print(f"{_OUTPUT.value}: {manifest.records} edits in {len(manifest.shards)} shards ({shapes}).")
    if manifest.bad_rows:
        print(f"{len(manifest.bad_rows)} rows could not be used, see above.", file=sys.stderr)
        return BAD_ROWS
    return 0


if __name__ == "__main__":
    run(main)
