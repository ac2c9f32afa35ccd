"""Train the quickstart's small autoencoder; launch/guides/quickstart.md says how ours was made.

python -m launch.train_autoencoder --output=runs/autoencoder/weights.safetensors --steps=5000
"""

import time

import jax
import numpy as np
from absl import flags
from flax import nnx

from launch.shared.command import run
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import quickstart_autoencoder
from step1x_jax.weights.load import load_autoencoder
from step1x_jax.weights.save import save_autoencoder

_OUTPUT = flags.DEFINE_string("output", None, "The .safetensors file to write.", required=True)
_START = flags.DEFINE_string("start_from", "", "A .safetensors file to continue from.")
_WHITEN = flags.DEFINE_bool("whiten", False, "Whiten the latents before this stage.")
_STEPS = flags.DEFINE_integer(
    "steps", 5000, "Steps of this stage; 0 only whitens or casts.", lower_bound=0
)
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Highest learning rate.", lower_bound=0)
_DECAY = flags.DEFINE_float(
    "decay",
    0.5,
    "Last part of the steps in which the rate falls to 0.",
    lower_bound=0,
    upper_bound=1,
)
_BATCH = flags.DEFINE_integer("batch_size", 16, "Crops in a batch.", lower_bound=1)
_SIZE = flags.DEFINE_integer(
    "size", 64, "Side of the crops in pixels.", lower_bound=32, upper_bound=512
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and crops.", lower_bound=0)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of the file.")
_REPORT = flags.DEFINE_integer(
    "report_every", 250, "Steps between figures and saves.", lower_bound=1
)


def main() -> None:
    """Run one stage, saving as it goes."""
    # Here, because the crops need OpenCV: flags are checked, and its absence said, without it.
    from step1x_jax.quickstart.autoencoder import (
        AutoencoderTraining,
        crop_batches,
        evaluate_psnr,
        train_autoencoder,
        whiten,
    )

    if _START.value:
        model = load_autoencoder(_START.value)
    else:
        model = Autoencoder(quickstart_autoencoder(), rngs=nnx.Rngs(_SEED.value))
    config = AutoencoderTraining(
        steps=_STEPS.value,
        learning_rate=_RATE.value,
        batch_size=_BATCH.value,
        size=_SIZE.value,
        decay=_DECAY.value,
        seed=_SEED.value,
    )
    if _WHITEN.value:
        sample = AutoencoderTraining(steps=1, batch_size=256, size=128, seed=_SEED.value + 1)
        whiten(model, next(crop_batches(sample)))
    graph, params = nnx.split(model)
    started = time.time()
    errors: list[float] = []

    def save(step: int, params: nnx.State) -> None:
        current = nnx.merge(graph, jax.tree.map(np.asarray, params))
        save_autoencoder(_OUTPUT.value, current, dtype=_DTYPE.value)
        held_out = ", ".join(f"{k} {v:.2f}" for k, v in evaluate_psnr(current).items())
        trained = f"{10 * np.log10(4 / np.mean(errors)):.2f} dB; " if errors else ""
        minutes = (time.time() - started) / 60
        print(f"step {step}: {trained}held out: {held_out} dB; {minutes:.1f} min", flush=True)
        errors.clear()

    def report(step: int, error: float, params: nnx.State) -> None:
        errors.append(error)
        if step % _REPORT.value == 0 and step < config.steps:
            save(step, params)

    save(config.steps, train_autoencoder(model, config, report) if config.steps else params)


if __name__ == "__main__":
    run(main)
