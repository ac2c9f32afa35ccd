"""--steps, --guidance_scale, --truncate, --size, --speed: sampling, where not as the model says."""

from typing import Any, get_type_hints

from absl import flags

from launch.shared.old_names import keep_old_name
from step1x_jax.editing.settings import plans_of, sampling_of
from step1x_jax.models.config import ModelConfig
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.sampling.plan import EXACT, SPEEDS, unscaled
from step1x_jax.weights.open import Weights


def _bounds(field: str) -> dict[str, Any]:
    """Return the limits of a field of SamplingConfig, for the flag that sets it."""
    hints = get_type_hints(SamplingConfig, include_extras=True)
    (meta,) = hints[field].__metadata__
    return {"lower_bound": meta.ge, "upper_bound": meta.le}


STEPS = flags.DEFINE_integer(
    "steps", None, "Euler steps (default: the model's).", **_bounds("num_steps")
)
GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale",
    None,
    "How strongly the instruction counts (default: the model's).",
    **_bounds("guidance"),
)
TRUNCATE = flags.DEFINE_float(
    "truncate", None, "Time above which guidance is damped (default: the model's).", lower_bound=0
)
SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Size level: about size^2 pixels are edited (default: the model's).",
    **_bounds("size"),
)
SPEED = flags.DEFINE_enum(
    "speed",
    None,
    list(SPEEDS),
    "Steps that are computed: all, about 16 of 28, or about 11 of 28 (default: the model's).",
)
keep_old_name("guidance", "guidance_scale")


def resolved(weights: Weights) -> dict[str, Any]:
    """Return steps, guidance, truncate and size, the model's where no flag gives them.

    Also speed and its plan, unless every step is computed, as before there was a choice. The names
    are those that are stored, of a Recipe and of a run.json.

    Raises:
      UserError: the model's are impossible.
    """
    assert isinstance(weights.config, ModelConfig)
    defaults = sampling_of(weights)
    values = {
        "steps": (STEPS.value, defaults.num_steps),
        "guidance": (GUIDANCE_SCALE.value, defaults.guidance),
        "truncate": (TRUNCATE.value, defaults.truncate_for(weights.config.version)),
        "size": (SIZE.value, defaults.size),
    }
    chosen = {name: default if one is None else one for name, (one, default) in values.items()}
    speed = SPEED.value or defaults.speed
    if speed != EXACT:
        chosen |= {"speed": speed, "plan": unscaled(speed, plans_of(weights))}
    return chosen
