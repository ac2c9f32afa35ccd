"""How an edit is sampled."""

import dataclasses
from typing import Annotated

from msgspec import Meta

from step1x_jax.bounds import NotNegative, Positive
from step1x_jax.json_files import build, check_fields
from step1x_jax.sampling.plan import EXACT, Speed

# Above this time v1.1 damps the guidance (REFERENCE: timesteps_truncate); v1.0 never does.
TRUNCATE = {"v1.0": 1.0, "v1.1": 0.93}

SizeLevel = Annotated[int, Meta(ge=32, le=8192)]
Steps = Annotated[int, Meta(ge=1, le=10_000)]
GuidanceScale = Annotated[float, Meta(ge=-1000, le=1000)]


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """The defaults are the published ones.

    `size` is the published size level: an edit has about size^2 pixels. `shift` is the schedule's
    e^mu; None takes it from the number of noise tokens, as published. `truncate` None takes the
    release's value. `speed` names which steps compute the velocity, see `plan_of`; "exact": all.
    """

    size: SizeLevel = 1024
    num_steps: Steps = 28
    guidance: GuidanceScale = 6.0
    shift: Positive | None = None
    truncate: NotNegative | None = None
    speed: Speed = EXACT

    def validate(self) -> None:
        """Raise UserError for impossible values."""
        check_fields(self, "the config", "sampling")

    def truncate_for(self, version: str) -> float:
        """The time above which guidance is damped, for a model of `version`."""
        return TRUNCATE[version] if self.truncate is None else self.truncate


# Our field -> key of a model's config.json.
_JSON_KEYS = {
    "size": "size_level",
    "num_steps": "sample_steps",
    "guidance": "cfg_scale",
    "shift": "sample_shift",
    "truncate": "timesteps_truncate",
    "speed": "sample_speed",
}


def sampling_from_json(values: dict) -> SamplingConfig:
    """The sampling defaults that a model's config.json gives; absent ones are the published."""
    chosen = {ours: values[key] for ours, key in _JSON_KEYS.items() if key in values}
    config = build(SamplingConfig, chosen, "config.json")
    config.validate()
    return config


def sampling_to_json(config: SamplingConfig) -> dict:
    """The entries for a model's config.json; fields that are None and the exact speed are not."""
    values = {key: getattr(config, ours) for ours, key in _JSON_KEYS.items()}
    return {key: value for key, value in values.items() if value not in (None, EXACT)}
