"""The training state and the one jitted step that moves it forward."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.models.embeddings import PATCH
from step1x_jax.parallel.compiler_options import compiler_options
from step1x_jax.parallel.rules import batch_sharding, replicated
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.parts import (
    abstract_frozen,
    abstract_split,
    placed,
    random_trained,
    shardings_of,
)
from step1x_jax.training.step.accumulation import value_and_gradient
from step1x_jax.training.step.loss import interpolate, rectified_flow_loss
from step1x_jax.training.step.optimizer import learning_rate, make_optimizer
from step1x_jax.training.step.precision import in_float32, kernels_in, lowered, stored_as
from step1x_jax.training.step.randomness import named, stream
from step1x_jax.training.step.remat_choice import with_remat
from step1x_jax.training.step.timesteps import sample_timesteps

Batch = dict[str, Any]  # target, source, text, text_lengths: see train_step
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """What a run is at one moment: all of it is in a checkpoint.

    step: int32 scalar, steps done; also the number of the next batch.
    params: what is trained, an nnx.State: connector and DiT in model.param_dtype, or adapters
      (nnx.LoRAParam) in float32.
    opt_state: optax's, in optimizer.moment_dtype; moments of AdamW are shaped and named like their
      parameters, all are sharded like them.
    ema: moving average of the parameters in float32, or None.
    """

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    ema: nnx.State | None


def _first_state(config: TrainConfig, params: nnx.State | None = None) -> TrainState:
    params = random_trained(config) if params is None else params
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    opt_state = optimizer.init(in_float32(params))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=lowered(opt_state, config.optimizer.moment_dtype),
        ema=jax.tree.map(_float32_copy, params) if config.optimizer.ema_decay else None,
    )


def _float32_copy(x: jax.Array) -> jax.Array:
    return jnp.copy(x.astype(jnp.float32))


def abstract_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """The state as ShapeDtypeStructs with their shardings: what it will hold, and where."""
    return placed(jax.eval_shape(lambda: _first_state(config)), mesh)


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
      train_step(state, batch, frozen) -> (state, metrics). The old state's buffers are reused,
      those of the frozen part are left alone. It compiles once per shape of batch (aspect bucket).
    """
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    rate = learning_rate(config.optimizer, config.training.steps)
    seed = config.training.seed
    gradient_dtype = config.optimizer.gradient_dtype
    state_shardings = shardings_of(abstract)

    def train_step(
        state: TrainState, batch: Batch, frozen: nnx.State
    ) -> tuple[TrainState, Metrics]:
        """One step of rectified flow.

        Args:
          state: before the step.
          batch: target and source (B, h, w, 16), text (B, T, C) zero-padded, text_lengths (B,).
          frozen: the base of adapters, see `abstract_frozen`; else empty.

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

        # --- loss and gradient of all that is trained, together
        chosen = with_remat(config.model, batch, abstract, abstract_frozen(config, mesh), mesh)
        graph = abstract_split(dataclasses.replace(config, model=chosen)).graph

        def loss_fn(params: nnx.State, x: Batch) -> jax.Array:
            model = nnx.merge(graph, params, frozen)
            velocity = model(x["noisy"], x["source"], x["text"], x["text_lengths"], x["t"])
            return rectified_flow_loss(velocity, x["clean"], x["noise"])

        params = state.params
        if gradient_dtype == "bfloat16":
            params = kernels_in(params, gradient_dtype)  # the gradient has the dtype of these
        loss, gradient = value_and_gradient(
            loss_fn,
            params,
            batch | {"clean": clean, "noise": noise, "noisy": noisy, "t": t},
            parts=config.training.accumulate,
            in_float32=gradient_dtype == "float32",
            places=state_shardings.params,
        )

        # --- update, in float32 whatever it is kept in
        gradient = in_float32(gradient)
        updates, opt_state = optimizer.update(
            gradient, in_float32(state.opt_state), in_float32(state.params)
        )
        params = optax.apply_updates(in_float32(state.params), updates)
        key = jax.random.fold_in(stream(seed, "rounding"), state.step)
        opt_state = stored_as(state.opt_state, opt_state, named(key, "moments"))
        ema = state.ema
        if ema is not None:
            decay = config.optimizer.ema_decay
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, params)
        params = stored_as(state.params, params, named(key, "parameters"))

        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": rate(state.step),
            "param_norm": optax.tree.norm(in_float32(params)),
        }
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return jax.jit(
        train_step,
        in_shardings=(
            state_shardings,
            batch_sharding(mesh),
            shardings_of(abstract_frozen(config, mesh)),
        ),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0]),
    )
