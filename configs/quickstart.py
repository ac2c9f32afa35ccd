"""Teaches a 4 M parameter model of the real architecture ten edits of photographs, from scratch.

    bash launch/quickstart.sh              # data, training, report; or, once the data is there:
    python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart/train

Time and figure to expect: 7 minutes of training on 2 CPU cores, 10 for the script; mean gain over
the untouched source 12.0 dB on photographs that it has never seen.
"""

from step1x_jax.models.config import quickstart
from step1x_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    config = TrainConfig(model=quickstart())
    config.data.path = "runs/quickstart/edits/export/train"
    config.data.batch_size = 12  # small batches: at this length, many steps are what counts

    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.b2 = 0.98
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 60
    config.optimizer.flat_fraction = 0.4

    config.timesteps.shift = 3.0  # noisy times matter most: that is where the edit is decided

    config.training.steps = 1250
    config.training.log_every = 25
    config.checkpoint.every = 250
    config.checkpoint.keep = 2

    # What the records were made with (configs/curate_quickstart.py), and editing needs again.
    config.autoencoder = "step1x_jax/assets/quickstart/autoencoder"
    config.encoder.path = "step1x_jax/assets/quickstart/encoder"
    config.encoder.min_pixels = 4 * 28 * 28  # 25 tokens a picture; the release sees 256 and more

    config.sampling.size = 128
    config.sampling.num_steps = 10
    config.sampling.guidance = 1.2  # the release's 6 overshoots in so small a model
    config.sampling.shift = 3.0
    return config
