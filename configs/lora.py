"""Train a LoRA for the released v1.1 weights on your own edits, with the published settings.

    python -m launch.train --config=configs/lora.py --workdir=runs/lora --config.data.path=DATA

DATA is written by launch.precompute. The released files are expected in the current folder; set
other paths with --config.training.start_from, --config.autoencoder and --config.encoder.path.
306,315,264 parameters are trained in float32. The frozen base needs 23 GiB in bfloat16, or 12 GiB
with --config.lora.quantize=int8. One 80 GB GPU is enough for one example: 58.3 GiB at 1024 px and
36.7 GiB at 512 px, compiled for an H100 (`python -m launch.gpu_memory` with this config); 31.7 and
28.7 GiB with --config.model.remat=full. The loss to expect and the time on GPUs were not measured.
Hours for 100 000 steps, estimated by `python -m launch.compile_ahead` (a model of the compiled
program, not a measurement):

    # hours lora 1024
    slice       edits a chip   hours
    v5p:2x2x1   1              44
    v5p:2x4x4   1              42
    v5e:16x16   1              106
    v6e:8x8     1              36
    v6e:16x16   1              35
    # end

Edit with the run, or write a LoRA file in kohya's format:

    python -m launch.edit --model=runs/lora --image=photo.jpg --instruction="..."
    python -m launch.convert --input=runs/lora --to=kohya --output=out/lora.safetensors
"""

import dataclasses

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.data.pipeline import DataConfig
from step1x_jax.models.config import LoraConfig, step1x_edit_v1_1
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    TrainConfig,
    TrainingConfig,
)
from step1x_jax.training.step.timesteps import TimestepConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        # The frozen base is stored and computed in bfloat16; adapters are always stored in float32.
        # Remat "auto" saves as many intermediates as fit.
        model=dataclasses.replace(
            step1x_edit_v1_1(), dtype="bfloat16", param_dtype="bfloat16", remat="auto"
        ),
        # The linear layers of all blocks are adapted; targets=(..., "connector.*") adds others.
        lora=LoraConfig(rank=64, alpha=32.0),
        mesh=MeshConfig(data=-1, fsdp=-1),  # any number of devices, shards over up to 64
        data=DataConfig(batch_size=1),  # for one GPU; otherwise a multiple of the devices
        optimizer=OptimizerConfig(learning_rate=1e-4),  # constant, as published
        # Timesteps sigmoid(N(0, 1)) with the published shift.
        timesteps=TimestepConfig(shift=3.1582),
        training=TrainingConfig(
            start_from="step1x-edit-v1p1-official.safetensors",
            steps=10_000,
        ),
        checkpoint=CheckpointConfig(every=500, keep=2),  # 3.7 GB each: adapters and two moments
        # The models with which the records were encoded, for launch.edit.
        autoencoder="vae.safetensors",
        encoder=EncoderConfig(path="Qwen2.5-VL-7B-Instruct"),
    )
