"""Fine-tune the released v1.1 weights on your own edits at 1024 px.

    python -m launch.train --config=configs/finetune_1024.py --workdir=runs/finetune \\
        --config.data.path=DATA

DATA is written by launch.precompute. The released files are expected in the current folder; set
other paths with --config.training.start_from, --config.autoencoder and --config.encoder.path.

Chips: v5p:2x2x1 or larger, v6e:8x8 or larger, v5e:16x16. Hours for 100 000 steps, estimated by
`python -m launch.compile_ahead` (a model of the compiled program, not a measurement):

    # hours finetune_1024 1024
    slice       edits a chip   hours
    v5p:2x2x1   1              51
    v5p:2x4x4   1              46
    v5p:4x4x4   1              46
    v5e:16x16   1              112
    v6e:8x8     1              38
    v6e:16x16   1              36
    # end

data.batch_size is the global batch size: set it to the number of chips or a multiple. All 12.4
billion parameters are trained: weights, gradients and moments need 185 GiB, sharded over the chips.
The loss to expect was not measured. `python -m launch.describe` with this config prints its shapes
without allocating memory.
"""

import dataclasses

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.data.pipeline import DataConfig
from step1x_jax.models.config import step1x_edit_v1_1
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    TrainConfig,
    TrainingConfig,
)


def get_config() -> TrainConfig:
    return TrainConfig(
        # Computes in bfloat16; parameters and optimizer state stay float32. Remat "auto" saves as
        # many intermediates as fit.
        model=dataclasses.replace(step1x_edit_v1_1(), dtype="bfloat16", remat="auto"),
        mesh=MeshConfig(data=-1, fsdp=-1),  # any number of devices, shards over up to 64
        data=DataConfig(batch_size=8),
        optimizer=OptimizerConfig(learning_rate=1e-5),  # constant, as in the paper
        training=TrainingConfig(
            start_from="step1x-edit-v1p1-official.safetensors",
            steps=10_000,
        ),
        checkpoint=CheckpointConfig(every=500, keep=2),  # 150 GB each
        # The models with which the records were encoded, for launch.edit.
        autoencoder="vae.safetensors",
        encoder=EncoderConfig(path="Qwen2.5-VL-7B-Instruct"),
    )
