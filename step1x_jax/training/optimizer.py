"""AdamW with a learning rate that is a function of the step alone."""

import jax
import jax.numpy as jnp
import optax

from step1x_jax.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of each step (0 is the first).

    It rises linearly over `warmup_steps`. "constant" then stays; "linear" stays until the fraction
    `flat_fraction` of all steps is done, then falls linearly and reaches zero after the last step.

    Args:
      config: the peak and the shape.
      steps: how long the run is.

    Returns:
      A function from the step (integer) to a float32 scalar.
    """
    flat_steps = min(config.flat_fraction * steps, steps - 1)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        scale = jnp.minimum(1.0, (step + 1) / max(config.warmup_steps, 1))
        if config.schedule == "linear":
            scale = jnp.minimum(scale, (steps - step) / (steps - flat_steps))
        return config.learning_rate * jnp.maximum(scale, 0.0)

    return rate


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW after clipping the gradient to a global norm.

    Moments have the parameters' dtype, float32: rounded to bfloat16, parameters would not move at
    the learning rates of fine-tuning, and second moments would not decay.

    Args:
      config: its settings.
      steps: how long the run is, for the schedule.

    Returns:
      An optax transformation whose updates are added to the parameters.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.adamw(
            learning_rate(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )
