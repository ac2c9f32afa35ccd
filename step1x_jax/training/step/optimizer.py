"""AdamW or Adafactor with a learning rate that depends only on the step."""

import jax
import jax.numpy as jnp
import optax

from step1x_jax.training.config import OptimizerConfig
from step1x_jax.training.step.adafactor import scale_by_factored_rms


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Make the learning rate schedule; the first step is 0.

    The rate rises linearly over `warmup_steps` and then stays constant. The schedule "linear" keeps
    it constant until the fraction `flat_fraction` of all steps, then decays linearly to zero after
    the last step.

    Args:
      config: peak learning rate and schedule.
      steps: length of the run.

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
    """Make AdamW or Adafactor, after clipping the gradient to a global norm, in float32.

    Args:
      config: optimizer settings.
      steps: length of the run, for the schedule.

    Returns:
      An optax transformation whose updates are added to the parameters. See precision.py for
      parameters, gradients and moments stored in bfloat16.
    """
    rate = make_schedule(config, steps)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.name == "adafactor":
        return optax.chain(
            clip,
            scale_by_factored_rms(),
            optax.add_decayed_weights(config.weight_decay),
            optax.scale_by_learning_rate(rate),
        )
    return optax.chain(
        clip,
        optax.adamw(
            rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay
        ),
    )
