"""What a run shows of edits that it does not train on: a loss that can be compared, and pictures.

The loss is taken at fixed times and noise, of the same edits every time: it changes with the
parameters alone. The pictures are sampled as launch.edit would, from fixed noise too. Which
parameters, a run's moving average or the last ones, is the loop's choice.
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
from step1x_jax.errors import UserError, require
from step1x_jax.files import replacing
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.embeddings import PATCH
from step1x_jax.parallel.rules import batch_sharding, replicated
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.sampler import Conditions, sample
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.parts import abstract_split
from step1x_jax.training.step.loss import interpolate, rectified_flow_loss
from step1x_jax.training.step.randomness import stream
from step1x_jax.weights.load import load_autoencoder

FOLDER = "pictures"
# From whether captions are dropped to batches from the first on, as in loop.py.
HeldOutBatches = Callable[[bool], Iterator[dict[str, np.ndarray]]]

_decode = nnx.jit(Autoencoder.decode)


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes one global array of each process's rows; names of edits stay on the host."""
    with jax.transfer_guard("allow"):  # asked for here, which JAX sees of a single process alone
        return {
            name: jax.make_array_from_process_local_data(batch_sharding(mesh), rows)
            for name, rows in batch.items()
            if name != "ids"
        }


def check_width(
    batch: dict[str, np.ndarray], model: ModelConfig, folder: str
) -> dict[str, np.ndarray]:
    """The batch, if its embeddings are of the width that the model takes.

    Raises:
      UserError: they are not.
    """
    width, wanted = batch["text"].shape[-1], model.connector_in_channels
    if width != wanted:
        raise UserError(
            f"the records in {folder} have embeddings of width {width}, the model takes {wanted}:"
            " they are of another encoder; give others, or model.connector_in_channels."
        )
    return batch


class HeldOut:
    """Evaluates parameters on held-out edits. All processes call every method, in the same order.

    Args:
      config: of the run.
      mesh: of the run.
      batches: the held-out data.
      workdir: the run's folder; WORKDIR/pictures/ gets a picture each time.

    Raises:
      UserError: there is no autoencoder for the pictures; or the data cannot be read or is of
        another encoder.
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
            partial(_losses, self._graph, config, mesh),
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
            check_width(next(batches(dropped)), config.model, config.held_out.path)

    def loss(self, params: nnx.State, frozen: nnx.State) -> dict[str, float]:
        """The mean loss, and that at each time: "held_out_loss", "held_out_loss_0.5"."""
        wanted = self._config.held_out
        total = np.zeros(len(wanted.times))
        for i, batch in enumerate(itertools.islice(self._batches(False), wanted.batches)):
            total += jax.device_get(self._losses(params, frozen, put(batch, self._mesh), i))
        mean = total / wanted.batches
        by_time = {
            f"held_out_loss_{t:g}": float(x) for t, x in zip(wanted.times, mean, strict=True)
        }
        return {"held_out_loss": float(mean.mean()), **by_time}

    def show(self, params: nnx.State, frozen: nnx.State, step: int) -> epath.Path | None:
        """Samples the first held-out edits; a row of the picture is source, edited, true edit.

        Returns:
          The file, of process 0; None on others, and where no pictures are wanted.
        """
        if self._autoencoder is None:
            return None
        config = self._config
        batch, negative = (
            put(next(self._batches(dropped)), self._mesh) for dropped in (False, True)
        )
        conditions = Conditions(
            batch["source"].astype(jnp.float32),
            batch["text"], batch["text_lengths"],
            negative["text"], negative["text_lengths"],
        )  # fmt: skip
        b, h, w, c = batch["target"].shape
        noise = jax.random.normal(stream(config.training.seed, "pictures"), (b, h, w, c))
        times = timesteps(config.sampling.num_steps, h * w // PATCH**2, config.sampling.shift)
        guidance = Guidance(
            config.sampling.guidance, config.sampling.truncate_for(config.model.version)
        )
        model: Any = nnx.merge(self._graph, params, frozen)
        edited = sample(model, conditions, noise, times, guidance)
        columns = batch["source"], edited, batch["target"]
        shown = multihost_utils.process_allgather(columns, tiled=True)
        if jax.process_index():
            return None
        path = self._folder / f"step-{step}.png"
        grid = self._grid([np.asarray(x[: config.held_out.pictures], np.float32) for x in shown])
        with replacing(path) as temporary, temporary.open("wb") as f:
            grid.save(f, "PNG")
        return path

    def _grid(self, columns: list[np.ndarray]) -> Image.Image:
        """Latents (n, h, w, 16), column by column -> a picture of n rows."""
        autoencoder: Any = self._autoencoder

        def decode(latents: np.ndarray) -> np.ndarray:
            return np.asarray(_decode(autoencoder, jnp.asarray(latents[None])))

        decoded = [np.concatenate([decode(x) for x in column], axis=1) for column in columns]
        return from_array(np.concatenate(decoded, axis=2)[0])


def _losses(
    graph: nnx.GraphDef,
    config: TrainConfig,
    mesh: Mesh,
    params: nnx.State,
    frozen: nnx.State,
    batch: dict[str, jax.Array],
    number: jax.Array,
) -> jax.Array:
    """The loss at each time of the config, one after another."""
    model: Any = nnx.merge(graph, params, frozen)
    clean = batch["target"].astype(jnp.float32)
    key = jax.random.fold_in(stream(config.training.seed, "held_out"), number)
    noise = jax.random.normal(key, clean.shape, jnp.float32)

    def at(time: jax.Array) -> jax.Array:
        t = jnp.full(len(clean), time)
        noisy = interpolate(clean, noise, t)
        velocity = model(noisy, batch["source"], batch["text"], batch["text_lengths"], t)
        return rectified_flow_loss(velocity, clean, noise)

    return jax.lax.map(at, jnp.array(config.held_out.times, jnp.float32))
