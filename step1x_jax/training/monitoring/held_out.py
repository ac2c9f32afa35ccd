"""Evaluation on held-out edits: a loss that is comparable between steps, and sampled pictures.

The loss uses the same edits, timesteps and noise every time, so it depends on the parameters only.
The pictures are sampled as launch.edit samples, also from fixed noise. The training loop decides
whether the moving average or the current parameters are evaluated.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from PIL import Image

from step1x_jax.conditioning.images import from_array
from step1x_jax.errors import require
from step1x_jax.files import replacing
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.embeddings import PATCH
from step1x_jax.parallel.rules import batch_sharding, replicated
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.plan import plan_of
from step1x_jax.sampling.sampler import sample
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.sampling.step import Conditions
from step1x_jax.training.batches import check_text_width, to_global_arrays
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.step.loss import interpolate, rectified_flow_loss
from step1x_jax.training.step.randomness import rng_stream
from step1x_jax.training.trainable_split import abstract_split
from step1x_jax.weights.load import load_autoencoder

FOLDER = "pictures"
# From whether instructions are dropped to an iterator over all batches; see training/batches.py.
HeldOutBatches = Callable[[bool], Iterator[dict[str, np.ndarray]]]

_decode = nnx.jit(Autoencoder.decode)


class HeldOutEvaluator:
    """Evaluate parameters on held-out edits.

    All processes must call every method in the same order.

    Args:
      config: the run's config.
      mesh: the run's mesh.
      batches: the held-out data.
      workdir: the run's folder; pictures are written to WORKDIR/pictures/.

    Raises:
      UserError: pictures are wanted but no autoencoder is given; the data cannot be read; or its
        text embeddings have another width than the model expects.
    """

    def __init__(
        self, config: TrainConfig, mesh: Mesh, batches: HeldOutBatches, workdir: epath.PathLike
    ):
        self._config = config
        self._mesh = mesh
        self._graph = abstract_split(config).graph
        self._batches = batches
        self._folder = epath.Path(workdir) / FOLDER
        self._losses = jax.jit(
            partial(_compute_losses, self._graph, config, mesh),
            in_shardings=(None, None, batch_sharding(mesh), None),
            out_shardings=replicated(mesh),
        )
        self._autoencoder: Autoencoder | None = None
        if config.held_out.pictures:
            require(
                bool(config.autoencoder),
                "autoencoder", config.autoencoder, "give one for held_out.pictures",
            )  # fmt: skip
            self._autoencoder = load_autoencoder(config.autoencoder)
        for dropped in (False, True)[: 1 + (self._autoencoder is not None)]:
            check_text_width(next(batches(dropped)), config.model, config.held_out.path)

    def compute_losses(self, params: nnx.State, frozen: nnx.State) -> dict[str, float]:
        """Compute the loss on held_out.batches batches.

        Args:
          params: the trained part of the model.
          frozen: the frozen part.

        Returns:
          "held_out_loss", the mean over all timesteps, and the loss at each of them, for example
          "held_out_loss_0.5".
        """
        wanted = self._config.held_out
        total = np.zeros(len(wanted.times))
        for i, batch in enumerate(itertools.islice(self._batches(False), wanted.batches)):
            total += jax.device_get(
                self._losses(params, frozen, to_global_arrays(batch, self._mesh), i)
            )
        mean = total / wanted.batches
        by_time = {
            f"held_out_loss_{t:g}": float(x) for t, x in zip(wanted.times, mean, strict=True)
        }
        return {"held_out_loss": float(mean.mean()), **by_time}

    def write_picture(self, params: nnx.State, frozen: nnx.State, step: int) -> epath.Path | None:
        """Sample the first held-out edits and write them as one picture.

        Each row shows the source, the sampled edit and the target.

        Returns:
          The path of the PNG file on process 0; None on other processes, or if held_out.pictures
          is 0.
        """
        if self._autoencoder is None:
            return None
        config = self._config
        batch, negative = (
            to_global_arrays(next(self._batches(dropped)), self._mesh) for dropped in (False, True)
        )
        conditions = Conditions(
            batch["source"].astype(jnp.float32),
            batch["text"], batch["text_lengths"],
            negative["text"], negative["text_lengths"],
        )  # fmt: skip
        b, h, w, c = batch["target"].shape
        noise = jax.random.normal(rng_stream(config.training.seed, "pictures"), (b, h, w, c))
        times = timesteps(config.sampling.num_steps, h * w // PATCH**2, config.sampling.shift)
        guidance = Guidance(
            config.sampling.guidance, config.sampling.truncate_for(config.model.version)
        )
        model: Any = nnx.merge(self._graph, params, frozen)
        plan = plan_of(config.sampling.speed, {}, config.sampling.num_steps)
        edited = sample(model, conditions, noise, times, guidance, plan=plan)
        columns = batch["source"], edited, batch["target"]
        shown = multihost_utils.process_allgather(columns, tiled=True)
        if jax.process_index():
            return None
        path = self._folder / f"step-{step}.png"
        grid = self._decode_grid(
            [np.asarray(x[: config.held_out.pictures], np.float32) for x in shown]
        )
        with replacing(path) as temporary, temporary.open("wb") as f:
            grid.save(f, "PNG")
        return path

    def _decode_grid(self, columns: list[np.ndarray]) -> Image.Image:
        """Decode columns of latents (n, h, w, 16) to a picture with n rows."""
        autoencoder: Any = self._autoencoder

        def decode(latents: np.ndarray) -> np.ndarray:
            return np.asarray(_decode(autoencoder, jnp.asarray(latents[None])))

        decoded = [np.concatenate([decode(x) for x in column], axis=1) for column in columns]
        return from_array(np.concatenate(decoded, axis=2)[0])


def _compute_losses(
    graph: nnx.GraphDef,
    config: TrainConfig,
    mesh: Mesh,
    params: nnx.State,
    frozen: nnx.State,
    batch: dict[str, jax.Array],
    number: jax.Array,
) -> jax.Array:
    """Compute the loss at each timestep of config.held_out.times: (times,) float32."""
    model: Any = nnx.merge(graph, params, frozen)
    clean = batch["target"].astype(jnp.float32)
    key = jax.random.fold_in(rng_stream(config.training.seed, "held_out"), number)
    noise = jax.random.normal(key, clean.shape, jnp.float32)

    def loss_at(time: jax.Array) -> jax.Array:
        t = jnp.full(len(clean), time)
        noisy = interpolate(clean, noise, t)
        velocity = model(noisy, batch["source"], batch["text"], batch["text_lengths"], t)
        return rectified_flow_loss(velocity, clean, noise)

    return jax.lax.map(loss_at, jnp.array(config.held_out.times, jnp.float32))
