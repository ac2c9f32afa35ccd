"""From noise to latents, by two drivers.

`sample` is a scan, one compiled program; `sample_with_progress` is a loop on the host that shows
what it has after every step. Both give the same latents within rounding, on one device or over a
mesh, and both can skip steps (skipping.py).
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.plan import SamplingPlan
from step1x_jax.sampling.skipping import scan_plan, steps_of_plan
from step1x_jax.sampling.step import Conditions, euler_step, on_devices


def scan_steps(
    graph: nnx.GraphDef,
    guidance: Guidance,
    params: nnx.State,
    conditions: Conditions,
    noise: jax.Array,
    times: jax.Array,
) -> jax.Array:
    """The program of `sample`: `euler_step` from each of the times to the next."""

    def step(latents, pair):
        return euler_step(graph, guidance, params, conditions, noise, latents, *pair), None

    return jax.lax.scan(step, noise, (times[:-1], times[1:]))[0]


def sample(
    model: nnx.Module,
    conditions: Conditions,
    noise: jax.Array,
    times: np.ndarray,
    guidance: Guidance,
    mesh: Mesh | None = None,
    plan: SamplingPlan | None = None,
) -> jax.Array:
    """Run all steps as one program.

    Args:
      model: gives the velocity, see Step1XEdit.
      conditions: of B edits.
      noise: (B, h, w, 16) float32.
      times: (steps + 1,) float32 from 1 to 0, see `timesteps`.
      guidance: of the run.
      mesh: on which the model is placed; None: on one device.
      plan: which steps compute the velocity, but see `SamplingPlan.fitted`; None: all.

    Returns:
      (B, h, w, 16) float32 latents.

    Raises:
      UserError: the plan is for another number of steps.
    """
    graph, params = nnx.split(model)
    if plan is not None:
        return scan_plan(graph, params, conditions, noise, times, guidance, mesh, plan)
    with on_devices(mesh, scan_steps, params) as program:
        return program(graph, guidance, params, conditions, noise, jnp.asarray(times))


def sample_with_progress(
    model: nnx.Module,
    conditions: Conditions,
    noise: jax.Array,
    times: np.ndarray,
    guidance: Guidance,
    show: Callable[[int, jax.Array], object],
    mesh: Mesh | None = None,
    plan: SamplingPlan | None = None,
) -> jax.Array:
    """Do the same as `sample`, but call `show(step, latents)` on the host after each step."""
    graph, params = nnx.split(model)
    latents = noise
    if plan is not None:
        steps = steps_of_plan(graph, params, conditions, noise, times, guidance, mesh, plan)
        for i, latents in enumerate(steps):
            show(i + 1, latents)
        return latents
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        with on_devices(mesh, euler_step, params) as step:
            latents = step(graph, guidance, params, conditions, noise, latents, t, t_next)
        show(i + 1, latents)
    return latents
