"""Train a model of the real architecture with 4 M parameters on ten edits of photographs.

    bash launch/quickstart.sh              # data, training, report; or with existing data:
    python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart/train

Expected: 7 minutes of training on 2 CPU cores, 10 for the script, and a mean gain of 12.0 dB over
the unedited source on held-out photographs.
"""

from step1x_jax.models.config import quickstart
from step1x_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    config = TrainConfig(model=quickstart())
    config.data.path = "runs/quickstart/edits/export/train"
    config.data.batch_size = 12  # small: in a run this short, more steps help most

    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.b2 = 0.98
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 60
    config.optimizer.flat_fraction = 0.4

    config.timesteps.shift = 3.0  # favors noisy timesteps, at which the edit is decided

    config.training.steps = 1250
    config.training.log_every = 25
    config.checkpoint.every = 250
    config.checkpoint.keep = 2

    # The models with which the records were encoded (configs/curate_quickstart.py), for editing.
    config.autoencoder = "step1x_jax/assets/quickstart/autoencoder"
    config.encoder.path = "step1x_jax/assets/quickstart/encoder"
    config.encoder.min_pixels = 4 * 28 * 28  # 25 tokens per picture; the release has 256 or more

    config.sampling.size = 128
    config.sampling.num_steps = 10
    config.sampling.guidance = 1.2  # the release's 6 overshoots in so small a model
    config.sampling.shift = 3.0
    return config
