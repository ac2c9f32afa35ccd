"""Train a model of the real architecture with 4 M parameters on ten edits of photographs.

    bash launch/quickstart.sh              # data, training, report; or with existing data:
    python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart/train

Expected: 4 minutes of training on 2 CPU cores, 6 for the script, and a mean gain of 12.0 dB over
the unedited source on held-out photographs.
"""

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.data.pipeline import DataConfig
from step1x_jax.models.config import quickstart
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    TrainConfig,
    TrainingConfig,
)
from step1x_jax.training.step.timesteps import TimestepConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        model=quickstart(),
        data=DataConfig(
            path="runs/quickstart/edits/export/train",
            batch_size=12,  # small: in a run this short, more steps help most
        ),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-3,
            b2=0.98,
            clip_norm=1.0,
            schedule="linear",
            warmup_steps=60,
            flat_fraction=0.4,
        ),
        timesteps=TimestepConfig(shift=3.0),  # favors noisy timesteps, where the edit is decided
        training=TrainingConfig(steps=1250, log_every=25),
        checkpoint=CheckpointConfig(every=250, keep=2),
        # The models with which the records were encoded (configs/curate_quickstart.py), for
        # editing.
        autoencoder="step1x_jax/assets/quickstart/autoencoder",
        encoder=EncoderConfig(
            path="step1x_jax/assets/quickstart/encoder",
            min_pixels=4 * 28 * 28,  # 25 tokens per picture; the release has 256 or more
        ),
        sampling=SamplingConfig(
            size=128,
            num_steps=10,
            guidance=1.2,  # the release's 6 overshoots in so small a model
            shift=3.0,
        ),
    )
