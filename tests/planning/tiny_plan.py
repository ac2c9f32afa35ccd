"""A config for the command: a small model with heads of 128, which the kernels support."""

from step1x_jax.training.config import TrainConfig
from tests.training.tiny import tiny_config


def get_config() -> TrainConfig:
    config = tiny_config()
    config.model.hidden_size, config.model.num_heads = 512, 4
    config.model.axes_dim = (16, 56, 56)
    config.model.dtype = "bfloat16"
    config.model.remat = "auto"
    config.mesh.data = 1
    config.optimizer.ema_decay = 0.0
    return config
