"""A config for the command: a small model with heads of 128, which the kernels support."""

from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig
from tests.training.tiny import tiny_config


def get_config() -> TrainConfig:
    return override(
        tiny_config(),
        {
            "model.hidden_size": 512,
            "model.num_heads": 4,
            "model.axes_dim": (16, 56, 56),
            "model.dtype": "bfloat16",
            "model.remat": "auto",
            "mesh.data": 1,
            "optimizer.ema_decay": 0.0,
        },
    )
