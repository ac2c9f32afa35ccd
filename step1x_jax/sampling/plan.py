"""Which steps of the sampler compute the model's velocity, and which go on without it.

A skipped step takes the velocities of the last computed steps, held or extrapolated linearly in t,
conditional and unconditional apart; guidance and its damping are applied to them at every step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
from msgspec import Meta

from step1x_jax.errors import UserError
from step1x_jax.json_files import check_fields

Index = Annotated[int, Meta(ge=0, le=10_000)]
Speed = Literal["exact", "balanced", "fast"]
SPEEDS: tuple[Speed, ...] = get_args(Speed)
EXACT: Speed = "exact"


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """A choice among the steps, which are counted from 0, the one that starts at noise.

    Attributes:
      num_steps: of the sampler.
      computed: steps whose velocity the model computes, ascending, with step 0.
      unconditional: those of them at which the unconditional velocity is computed, too; at the
        others its difference to the conditional one is that of the computed step before.
      order: velocities of skipped steps are those of the last computed step (0), or on the straight
        line in t through those of the last two (1; after step 0, held).
    """

    num_steps: Annotated[int, Meta(ge=1, le=10_000)]
    computed: tuple[Index, ...]
    unconditional: tuple[Index, ...]
    order: Annotated[int, Meta(ge=0, le=1)] = 1

    def validate(self, source: str = "the plan") -> None:
        """Raise UserError, beginning with `source`, for impossible steps."""
        check_fields(self, source)
        for name in ("computed", "unconditional"):
            steps = getattr(self, name)
            if steps[:1] != (0,) or list(steps) != sorted(set(steps)):
                raise UserError(f"{source}: {name} should be ascending steps that begin with 0.")
        if self.computed[-1] >= self.num_steps:
            raise UserError(
                f"{source}: computed has step {self.computed[-1]}, and there are {self.num_steps}"
                " steps, counted from 0."
            )
        if not set(self.unconditional) <= set(self.computed):
            raise UserError(f"{source}: unconditional has steps that are not in computed.")

    @property
    def share_of_flops(self) -> float:
        """Evaluations of the model, of the two at every step of the exact sampler."""
        return (len(self.computed) + len(self.unconditional)) / (2 * self.num_steps)

    def scaled(self, num_steps: int) -> "SamplingPlan":
        """The plan for another number of steps.

        As large a share of the steps is computed (rounded up), at the same places between the first
        and the last step (interpolated, rounded, each further than the one before). The
        unconditional velocity is computed where it is at the nearest computed step of this plan.
        """
        if num_steps == self.num_steps:
            return self
        last, old = num_steps - 1, np.array(self.computed)
        count = min(num_steps, -(-len(old) * num_steps // self.num_steps))
        ranks = np.linspace(0, len(old) - 1, count)
        places = np.interp(ranks, np.arange(len(old)), old) * last / max(1, self.num_steps - 1)
        steps = np.round(places).astype(int)
        for i in range(1, count):
            steps[i] = max(steps[i], steps[i - 1] + 1)
        for i in reversed(range(count)):  # pushed beyond the end: back, still each by itself
            steps[i] = min(steps[i], last - (count - 1 - i))
        both = np.isin(old, self.unconditional)[np.round(ranks).astype(int)]
        return SamplingPlan(
            num_steps, tuple(steps.tolist()), tuple(steps[both].tolist()), self.order
        )

    def check_steps(self, num_steps: int) -> None:
        """Raise UserError unless the plan is for so many steps."""
        if num_steps != self.num_steps:
            raise UserError(
                f"the plan is for {self.num_steps} steps, and there are {num_steps}; give one for"
                " as many."
            )

    def fitted(self, times: np.ndarray, truncate: float) -> "SamplingPlan":
        """The plan as it is sampled: where damping ends both velocities are computed.

        There, at the first step that does not begin above `truncate`, the guided velocity jumps.

        Args:
          times: (num_steps + 1,) from 1 to 0.
          truncate: the time above which guidance is damped.

        Raises:
          UserError: the plan is for another number of steps.
        """
        self.check_steps(len(times) - 1)
        end = end_of_damping(times, truncate)
        if end == self.num_steps:
            return self
        return dataclasses.replace(
            self,
            computed=tuple(sorted({*self.computed, end})),
            unconditional=tuple(sorted({*self.unconditional, end})),
        )


def end_of_damping(times: np.ndarray, truncate: float) -> int:
    """The first step that does not begin above `truncate`; the number of steps if all do.

    Args:
      times: (steps + 1,) from 1 to 0.
      truncate: the time above which guidance is damped.
    """
    return int(np.sum(times[:-1] > truncate))


def every_step(num_steps: int) -> SamplingPlan:
    """The plan that skips nothing."""
    steps = tuple(range(num_steps))
    return SamplingPlan(num_steps, steps, steps)


# For 28 steps, dense at the end; measured in launch/guides/performance.md.
_BALANCED = (0, 3, 6, 8, 11, 13, 15, 17, 19, 21, 22, 23, 24, 25, 26, 27)
_FAST = (0, 5, 10, 14, 17, 20, 23, 24, 25, 26, 27)
BUILT_IN: Mapping[str, SamplingPlan] = {
    "balanced": SamplingPlan(28, _BALANCED, _BALANCED),
    "fast": SamplingPlan(28, _FAST, _FAST, order=0),
}


def plan_of(speed: str, stored: Mapping[str, SamplingPlan], num_steps: int) -> SamplingPlan | None:
    """The plan that a speed means; None: every step is computed.

    Args:
      speed: its name.
      stored: plans that are stored with the model, by name; the others are BUILT_IN.
      num_steps: for which it is scaled.
    """
    return None if speed == EXACT else unscaled(speed, stored).scaled(num_steps)


def unscaled(speed: str, stored: Mapping[str, SamplingPlan]) -> SamplingPlan:
    """The plan that a speed other than "exact" means, for the number of steps it is stored for."""
    return stored.get(speed, BUILT_IN[speed])


class PlannedStep(NamedTuple):
    """One step of the sampler.

    Attributes:
      t: where it begins.
      t_next: where it ends.
      weight: its velocity is that of the last computed step, and so many times the difference of
        that to the one computed before.
    """

    t: float
    t_next: float
    weight: float


class Evaluation(NamedTuple):
    """A computed step with the skipped ones after it.

    Attributes:
      both: the unconditional velocity is computed, too.
      moves: the computed step's own, then those of the skipped ones.
    """

    both: bool
    moves: tuple[PlannedStep, ...]


def evaluations(plan: SamplingPlan, times: np.ndarray) -> list[Evaluation]:
    """A plan as what is done, in order.

    Args:
      plan: for as many steps as there are.
      times: (steps + 1,) from 1 to 0.
    """
    found = []
    ends = [*plan.computed[1:], plan.num_steps]
    for i, (step, end) in enumerate(zip(plan.computed, ends, strict=True)):
        slope = 0.0
        if plan.order == 1 and i > 0:
            slope = 1 / (float(times[step]) - float(times[plan.computed[i - 1]]))
        moves = tuple(
            PlannedStep(
                float(times[k]), float(times[k + 1]), (float(times[k]) - float(times[step])) * slope
            )
            for k in range(step, end)
        )
        found.append(Evaluation(step in plan.unconditional, moves))
    return found
