"""The best steps to compute for recorded edits, found by dynamic programming.

Skipping is charged for where its velocities lead: from one computed step to the next the guided,
extrapolated velocities of an exact trajectory are compared with the exact ones, and what the
latents would be off by is squared. These errors are taken to add up over the gaps of a plan, so the
best plan of n computed steps is a shortest path. What a skipped step does to the computed ones
after it is left out: whether a plan is good is measured by editing with it.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.sampling.guidance import Guidance, guide
from step1x_jax.sampling.plan import PlannedStep, SamplingPlan, end_of_damping
from step1x_jax.sampling.skipping import full_step
from step1x_jax.sampling.step import Conditions, on_devices


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """An exact edit. N steps.

    Attributes:
      times: (N + 1,) float32 from 1 to 0.
      velocities: (N, 2, h, w, 16) float32: at each step the conditional one, then the other.
      guidance: of the run.
      changing: (h, w, 1) bool, where the result is not the source's.
    """

    times: np.ndarray
    velocities: np.ndarray
    guidance: Guidance
    changing: np.ndarray


def record(
    model: nnx.Module,
    conditions: Conditions,
    noise: jax.Array,
    times: np.ndarray,
    guidance: Guidance,
    mesh: Mesh | None = None,
) -> Iterator[np.ndarray]:
    """The velocities of an exact edit, step by step.

    Args:
      model: gives them.
      conditions: of one edit.
      noise: (1, h, w, 16) float32.
      times: (steps + 1,) float32 from 1 to 0.
      guidance: of the run.
      mesh: on which the model is placed; None: on one device.

    Yields:
      (2, h, w, 16) float32.
    """
    graph, params = nnx.split(model)
    latents = noise
    for t, t_next in itertools.pairwise(times.tolist()):
        move = PlannedStep(t, t_next, 0.0)
        with on_devices(mesh, full_step, params) as step:
            latents, velocity = step(graph, guidance, params, conditions, noise, latents, move)
        yield np.asarray(velocity)


def gap_errors(trajectory: Trajectory, order: int) -> np.ndarray:
    """What a gap between two computed steps costs.

    Args:
      trajectory: of N steps.
      order: of the extrapolation.

    Returns:
      (N, N, N + 1) float64: at [h, i, j] the mean squared error of latents at step j (N: the end)
      where h and i are the last steps computed before it, h = i for i = 0; infinite where these are
      not in order.
    """
    n = len(trajectory.times) - 1
    errors = np.full((n, n, n + 1), np.inf)
    times, velocities = jnp.asarray(trajectory.times), jnp.asarray(trajectory.velocities)
    for i in range(n):
        before = [0] if i == 0 else range(i)
        for h in before:
            if order == 0 and h > 0:
                errors[h, i] = errors[0, i]
                continue
            slope = 0.0 if order == 0 or h == i else 1 / (times[i] - times[h])
            after = _errors_after(
                velocities, times, trajectory.guidance, trajectory.changing, h, i, slope
            )
            errors[h, i, i + 1 :] = np.asarray(after, np.float64)[i:]
    return errors


@jax.jit
def _errors_after(
    velocities: jax.Array,
    times: jax.Array,
    guidance: Guidance,
    changing: jax.Array,
    before: int,
    latest: int,
    slope: float,
) -> jax.Array:
    """The error at the end of each step k, (N,), with what skipped steps after `latest` add."""
    t = times[:-1, None, None, None]
    c, u = (
        velocities[latest, branch]
        + (t - times[latest]) * slope * (velocities[latest, branch] - velocities[before, branch])
        for branch in (0, 1)
    )
    t_of_tokens = times[:-1, None, None]  # `guide` compares packed tokens with it
    guided = guide(c, u, guidance, t_of_tokens)
    exact = guide(velocities[:, 0], velocities[:, 1], guidance, t_of_tokens)
    skipped = (jnp.arange(len(times) - 1) > latest)[:, None, None, None]
    moved = jnp.where(
        skipped & changing, jnp.diff(times)[:, None, None, None] * (guided - exact), 0
    )
    return jnp.mean(jnp.cumsum(moved, axis=0) ** 2, axis=(1, 2, 3))


def best_steps(
    errors: np.ndarray, count: int, always: Sequence[int] = ()
) -> tuple[float, tuple[int, ...]]:
    """The steps to compute whose gaps cost least in all.

    Args:
      errors: see `gap_errors`.
      count: of computed steps, 1 to N, and at least 1 + those of `always`.
      always: steps that have to be computed, as step 0 has.

    Returns:
      The cost, and `count` ascending steps that begin with 0.
    """
    n = len(errors)
    allowed = errors.copy()
    for step in always:
        allowed[:, :step, step + 1 :] = np.inf
    cost = np.full((n, n), np.inf)  # of paths that computed h and then i, so far
    cost[0, 0] = 0
    came_from = []
    for _ in range(count - 1):
        through = cost[:, :, None] + allowed[:, :, :n]  # h, i and the next one
        came_from.append(np.argmin(through, axis=0))
        cost = np.min(through, axis=0)
    ends = cost + allowed[:, :, n]
    before, latest = np.unravel_index(np.argmin(ends), ends.shape)
    least = float(ends[before, latest])
    pair, steps = (int(before), int(latest)), [int(latest)]
    for origin in reversed(came_from):
        pair = (int(origin[pair]), pair[0])
        steps.append(pair[1])
    return least, tuple(reversed(steps))


def candidates(trajectories: Sequence[Trajectory], count: int) -> list[SamplingPlan]:
    """Plans of `count` computed steps: the best on average, and for the worst of the edits.

    Each held and linear. Where an edit's damping ends is always computed (`SamplingPlan.fitted`).

    Args:
      trajectories: of one number of steps.
      count: see `best_steps`; as many as there are ends of damping at least.
    """
    n = len(trajectories[0].times) - 1
    ends = {end_of_damping(x.times, float(x.guidance.truncate)) for x in trajectories}
    always = sorted(ends - {0, n})
    found = []
    for order in (0, 1):
        errors = np.stack([gap_errors(trajectory, order) for trajectory in trajectories])
        for combined in (errors.mean(axis=0), errors.max(axis=0)):
            _, steps = best_steps(combined, max(count, 1 + len(always)), always)
            found.append(SamplingPlan(n, steps, steps, order))
    return list(dict.fromkeys(found))
