"""The training state and the one jitted step that moves it forward."""

import dataclasses
import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.models.embeddings import PATCH
from step1x_jax.models.placement import placed_by
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model
from step1x_jax.parallel.compiler_options import compiler_options
from step1x_jax.parallel.rules import batch_sharding, placement, replicated, shardings
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.loss import interpolate, rectified_flow_loss
from step1x_jax.training.optimizer import learning_rate, make_optimizer
from step1x_jax.training.remat_choice import with_remat
from step1x_jax.training.timesteps import sample_timesteps

Batch = dict[str, Any]  # target, source, text, text_lengths: see train_step
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """What a run is at one moment. Arrays are float32 unless said otherwise.

    step: int32 scalar, steps done; also the number of the next batch.
    params: connector and DiT, an nnx.State of nnx.Param.
    opt_state: optax's; moments are shaped, named and sharded like their parameters.
    ema: moving average of the parameters, or None.
    """

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    ema: nnx.State | None


def stream(seed: int, name: str) -> jax.Array:
    """The random key of one named use. Uses that happen every step fold the step in, too."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def _random_params(config: TrainConfig) -> nnx.State:
    rngs = nnx.Rngs(stream(config.training.seed, "init"))
    return nnx.split(Step1XEdit(config.model, rngs=rngs))[1]


def _first_state(config: TrainConfig, params: nnx.State | None = None) -> TrainState:
    params = _random_params(config) if params is None else params
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else None,
    )


def abstract_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """The state as ShapeDtypeStructs with their shardings: what it will hold, and where."""
    state = jax.eval_shape(lambda: _first_state(config))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        shardings(state, mesh),
    )


def shardings_of(abstract: Any) -> Any:
    """A tree's shardings, from its ShapeDtypeStructs."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def new_state(
    config: TrainConfig, abstract: TrainState, params: nnx.State | None = None
) -> TrainState:
    """A state at step 0, made where it will lie: no device ever holds all of it.

    Args:
      config: of the run.
      abstract: see `abstract_state`.
      params: to start from, their buffers are taken over; None makes random ones.
    """
    make = jax.jit(
        partial(_first_state, config), out_shardings=shardings_of(abstract), donate_argnums=0
    )
    return make(params)


def make_train_step(config: TrainConfig, mesh: Mesh, abstract: TrainState) -> jax.stages.Wrapped:
    """Builds the jitted step.

    Args:
      config: of the run.
      mesh: devices; the batch is split over it.
      abstract: the state on that mesh, see `abstract_state`.

    Returns:
      train_step(state, batch) -> (state, metrics). The old state's buffers are reused. It compiles
      once per shape of batch (aspect bucket).
    """
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    rate = learning_rate(config.optimizer, config.training.steps)
    seed = config.training.seed

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of rectified flow.

        Args:
          state: before the step.
          batch: target and source (B, h, w, 16), text (B, T, C) zero-padded, text_lengths (B,).

        Returns:
          The state after it, and float32 scalars: loss, grad_norm (before clipping), learning_rate,
          param_norm (after the step).
        """
        # --- where on the way from picture to noise each example is
        clean = batch["target"].astype(jnp.float32)
        size, height, width, _ = clean.shape
        noise_key = jax.random.fold_in(stream(seed, "noise"), state.step)
        noise = jax.random.normal(noise_key, clean.shape, jnp.float32)
        num_tokens = height * width // PATCH**2
        time_key = jax.random.fold_in(stream(seed, "timesteps"), state.step)
        t = sample_timesteps(config.timesteps, time_key, size, num_tokens)
        noisy = interpolate(clean, noise, t)

        # --- loss and gradient, connector and DiT together
        graph, _ = abstract_model(with_remat(config.model, batch, abstract, mesh))

        def loss_fn(params: nnx.State) -> jax.Array:
            model = nnx.merge(graph, params)
            with placed_by(placement(mesh)):
                velocity = model(noisy, batch["source"], batch["text"], batch["text_lengths"], t)
            return rectified_flow_loss(velocity, clean, noise)

        loss, gradient = jax.value_and_grad(loss_fn)(state.params)

        # --- update
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            decay = config.optimizer.ema_decay
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, params)

        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": rate(state.step),
            "param_norm": optax.tree.norm(params),
        }
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    state_shardings = shardings_of(abstract)
    return jax.jit(
        train_step,
        in_shardings=(state_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )
