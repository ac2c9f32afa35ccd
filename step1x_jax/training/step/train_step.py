"""The training state and the jitted step that updates it."""

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
from step1x_jax.training.step.accumulation import accumulate_value_and_grad
from step1x_jax.training.step.loss import interpolate, rectified_flow_loss
from step1x_jax.training.step.optimizer import make_optimizer, make_schedule
from step1x_jax.training.step.precision import (
    cast_float32,
    cast_kernels,
    round_to_stored_dtypes,
    to_float32,
)
from step1x_jax.training.step.randomness import fold_in_name, rng_stream
from step1x_jax.training.step.remat_choice import resolve_remat
from step1x_jax.training.step.timesteps import sample_timesteps
from step1x_jax.training.trainable_split import (
    abstract_frozen,
    abstract_split,
    init_trained,
    shardings_of,
    with_shardings,
)

Batch = dict[str, Any]  # target, source, text, text_lengths: see train_step
StepMetrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """The state of a run. A checkpoint holds all of it.

    Attributes:
      step: completed steps, an int32 scalar; also the number of the next batch.
      params: the trained parameters as an nnx.State: connector and transformer in
        model.param_dtype, or adapters (nnx.LoRAParam) in float32.
      opt_state: optax's state in optimizer.moment_dtype, sharded like the parameters. AdamW's
        moments also have their names and shapes.
      ema: moving average of the parameters in float32, or None.
    """

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    ema: nnx.State | None


def _init_state(config: TrainConfig, params: nnx.State | None = None) -> TrainState:
    params = init_trained(config) if params is None else params
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    opt_state = optimizer.init(to_float32(params))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=cast_float32(opt_state, config.optimizer.moment_dtype),
        ema=jax.tree.map(_copy_to_float32, params) if config.optimizer.ema_decay else None,
    )


def _copy_to_float32(x: jax.Array) -> jax.Array:
    return jnp.copy(x.astype(jnp.float32))


def abstract_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """Return the state as ShapeDtypeStructs with shardings."""
    return with_shardings(jax.eval_shape(lambda: _init_state(config)), mesh)


def init_state(
    config: TrainConfig, abstract: TrainState, params: nnx.State | None = None
) -> TrainState:
    """Initialize the state at step 0, sharded from the start: no device ever holds all of it.

    Args:
      config: the run's config.
      abstract: see `abstract_state`.
      params: initial parameters, whose buffers are donated; None initializes them at random.
    """
    make = jax.jit(
        partial(_init_state, config), out_shardings=shardings_of(abstract), donate_argnums=0
    )
    return make(params)


def make_train_step(config: TrainConfig, mesh: Mesh, abstract: TrainState) -> jax.stages.Wrapped:
    """Make the jitted train step.

    Args:
      config: the run's config.
      mesh: the devices, over which state and batch are sharded.
      abstract: the state on that mesh, see `abstract_state`.

    Returns:
      train_step(state, batch, frozen) -> (state, metrics). It donates the state's buffers, but not
      those of the frozen part, and compiles once per batch shape (aspect bucket).
    """
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    rate = make_schedule(config.optimizer, config.training.steps)
    seed = config.training.seed
    gradient_dtype = config.optimizer.gradient_dtype
    state_shardings = shardings_of(abstract)

    def train_step(
        state: TrainState, batch: Batch, frozen: nnx.State
    ) -> tuple[TrainState, StepMetrics]:
        """Do one step of rectified flow.

        Args:
          state: the state before the step.
          batch: target and source (B, h, w, 16), text (B, T, C) zero-padded, text_lengths (B,).
          frozen: the base of adapters, see `abstract_frozen`; otherwise empty.

        Returns:
          The state after the step, and float32 scalars: loss, grad_norm (before clipping),
          learning_rate, param_norm (after the step).
        """
        # --- noise and timestep of each example
        clean = batch["target"].astype(jnp.float32)
        size, height, width, _ = clean.shape
        noise_key = jax.random.fold_in(rng_stream(seed, "noise"), state.step)
        noise = jax.random.normal(noise_key, clean.shape, jnp.float32)
        num_tokens = height * width // PATCH**2
        time_key = jax.random.fold_in(rng_stream(seed, "timesteps"), state.step)
        t = sample_timesteps(config.timesteps, time_key, size, num_tokens)
        noisy = interpolate(clean, noise, t)

        # --- loss and gradient
        chosen = resolve_remat(config.model, batch, abstract, abstract_frozen(config, mesh), mesh)
        graph = abstract_split(dataclasses.replace(config, model=chosen)).graph

        def loss_fn(params: nnx.State, x: Batch) -> jax.Array:
            model = nnx.merge(graph, params, frozen)
            velocity = model(x["noisy"], x["source"], x["text"], x["text_lengths"], x["t"])
            return rectified_flow_loss(velocity, x["clean"], x["noise"])

        params = state.params
        if gradient_dtype == "bfloat16":
            params = cast_kernels(params, gradient_dtype)  # the gradient takes their dtypes
        loss, gradient = accumulate_value_and_grad(
            loss_fn,
            params,
            batch | {"clean": clean, "noise": noise, "noisy": noisy, "t": t},
            microbatches=config.training.accumulate,
            sum_in_float32=gradient_dtype == "float32",
            shardings=state_shardings.params,
        )

        # --- update, in float32 whatever the stored dtypes
        gradient = to_float32(gradient)
        updates, opt_state = optimizer.update(
            gradient, to_float32(state.opt_state), to_float32(state.params)
        )
        params = optax.apply_updates(to_float32(state.params), updates)
        key = jax.random.fold_in(rng_stream(seed, "rounding"), state.step)
        opt_state = round_to_stored_dtypes(state.opt_state, opt_state, fold_in_name(key, "moments"))
        ema = state.ema
        if ema is not None:
            decay = config.optimizer.ema_decay
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, params)
        params = round_to_stored_dtypes(state.params, params, fold_in_name(key, "parameters"))

        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": rate(state.step),
            "param_norm": optax.tree.norm(to_float32(params)),
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
