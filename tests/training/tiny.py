"""Small runs for tests: the tiny preset, or a toy model instead, on random latents."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.data.pipeline import DataConfig
from step1x_jax.json_files import read_json
from step1x_jax.models.config import PRESETS, ModelConfig
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    TrainConfig,
    TrainingConfig,
)
from step1x_jax.training.config_file import from_json

BATCH = 8

# Jitted, because an eager `step + 1` would transfer the 1 to the devices, which loop.py disallows.
count_step = jax.jit(lambda step: step + 1)


def load_config(path) -> TrainConfig:
    """Read a run's config.json."""
    return from_json(read_json(path), str(path))


def tiny_config(steps: int = 4, data: int = 2) -> TrainConfig:
    """Make a config with tiny sizes, two warm-up steps and a moving average."""
    return TrainConfig(
        model=PRESETS["tiny"](),
        data=DataConfig(batch_size=BATCH),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2, ema_decay=0.5),
        training=TrainingConfig(steps=steps, log_every=1),
        checkpoint=CheckpointConfig(every=2, keep=3),
        mesh=MeshConfig(data=data),
    )


class Toy(nnx.Module):
    """Replaces Step1XEdit in tests of other parts: compiles ten times faster."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size

        def param(shape: tuple[int, ...], names: tuple[str, ...]) -> nnx.Param:
            value = jax.random.normal(rngs.params(), shape) / 4
            return nnx.Param(value.astype(config.param_dtype), out_sharding=names)

        self.img_in = param((16, width), ("channels", "embed"))
        self.txt_in = param((config.connector_in_channels, width), ("context", "embed"))
        self.out = param((width, 16), ("embed", "channels"))
        self.bias = param((16,), ("channels",))

    def __call__(self, latents, reference, text, text_lengths, timesteps):
        valid = jnp.arange(text.shape[1]) < text_lengths[:, None]
        text = jnp.einsum("btc,bt,cd->bd", text, valid, self.txt_in) + timesteps[:, None]
        x = jnp.einsum("bhwc,cd->bhwd", latents + 2 * reference, self.img_in)
        x = jnp.tanh(x + text[:, None, None])
        return jnp.einsum("bhwd,dc->bhwc", x, self.out) + self.bias


def make_batch(step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
    """Make the random batch of a step, which depends only on the step."""
    rng = np.random.default_rng(step)
    latents = (BATCH, 4, 6, 16)
    batch = {
        "target": rng.standard_normal(latents, np.float32),
        "source": rng.standard_normal(latents, np.float32),
        "text": rng.standard_normal((BATCH, 8, 24), np.float32),
        "text_lengths": rng.integers(1, 9, BATCH).astype(np.int32),
    }
    return {name: x[rows] for name, x in batch.items()}


def batches(first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches without end."""
    step = first_step
    while True:
        yield make_batch(step)
        step += 1
