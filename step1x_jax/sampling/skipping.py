"""Both drivers of a SamplingPlan: a scan over the computed steps, and a loop on the host.

Nothing is decided on the devices. A computed step evaluates the model once and makes its own move;
skipped steps are moves along the velocities of the last two computed ones, with a number each.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.kernels.mesh_axes import BATCH_AXES
from step1x_jax.models.placement import can_shard
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.plan import Evaluation, PlannedStep, SamplingPlan, evaluations
from step1x_jax.sampling.step import Conditions, advance, both_velocities, on_devices


def with_held_difference(
    graph: nnx.GraphDef,
    params: nnx.State,
    conditions: Conditions,
    latents: jax.Array,
    t: jax.Array | float,
    latest: jax.Array,
) -> jax.Array:
    """As `both_velocities`, with the conditional ones alone computed, as a batch of B.

    On a mesh that would have split 2B and does not split B they are computed twice: pinned to no
    device the batch would be gathered on each (models/placement.py).

    Args:
      graph: of the model.
      params: of the model.
      conditions: of B edits.
      latents: (B, h, w, 16) float32.
      t: current time, a scalar.
      latest: (2B, h, w, 16), of the last computed step.
    """
    c, b = conditions, len(latents)
    times = 2 if can_shard(2 * b, BATCH_AXES) and not can_shard(b, BATCH_AXES) else 1
    inputs = (latents, c.reference, c.text, c.text_lengths)
    velocity = nnx.merge(graph, params)(
        *(None if x is None else jnp.concatenate([x] * times) for x in inputs),
        jnp.full(times * b, t, jnp.float32),
    )
    velocity = velocity[:b]
    conditional, unconditional = jnp.split(latest, 2)
    return jnp.concatenate([velocity, velocity + (unconditional - conditional)])


def full_step(
    graph: nnx.GraphDef,
    guidance: Guidance,
    params: nnx.State,
    conditions: Conditions,
    noise: jax.Array,
    latents: jax.Array,
    move: PlannedStep,
) -> tuple[jax.Array, jax.Array]:
    """A computed step: the latents after it, and its velocities (2B, h, w, 16)."""
    velocity = both_velocities(graph, params, conditions, latents, move.t)
    return advance(guidance, conditions, noise, latents, velocity, move.t, move.t_next), velocity


def conditional_step(
    graph: nnx.GraphDef,
    guidance: Guidance,
    params: nnx.State,
    conditions: Conditions,
    noise: jax.Array,
    latents: jax.Array,
    move: PlannedStep,
    latest: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As `full_step`, without an evaluation of the unconditional velocities."""
    velocity = with_held_difference(graph, params, conditions, latents, move.t, latest)
    return advance(guidance, conditions, noise, latents, velocity, move.t, move.t_next), velocity


def skipped_step(
    _: None,
    guidance: Guidance,
    conditions: Conditions,
    noise: jax.Array,
    latents: jax.Array,
    move: PlannedStep,
    latest: jax.Array,
    before: jax.Array,
) -> jax.Array:
    """A step without the model, from the velocities of the last two computed ones."""
    velocity = latest + move.weight * (latest - before)
    return advance(guidance, conditions, noise, latents, velocity, move.t, move.t_next)


def steps_of_plan(
    graph: nnx.GraphDef,
    params: nnx.State,
    conditions: Conditions,
    noise: jax.Array,
    times: np.ndarray,
    guidance: Guidance,
    mesh: Mesh | None,
    plan: SamplingPlan,
) -> Iterator[jax.Array]:
    """The latents after each step; three programs for all plans, one of them without the model.

    Arguments and errors as of `sample`.
    """

    def call(program: Any, *arguments: Any) -> Any:
        with on_devices(mesh, program, params) as jitted:
            return jitted(*arguments)

    given = (conditions, noise)
    latents = noise
    latest = before = None
    for evaluation in evaluations(plan.fitted(times, float(guidance.truncate)), times):
        own, *skipped = evaluation.moves
        before = latest
        if evaluation.both:
            latents, latest = call(full_step, graph, guidance, params, *given, latents, own)
        else:
            latents, latest = call(
                conditional_step, graph, guidance, params, *given, latents, own, latest
            )
        yield latents
        for move in skipped:
            pair = (latest, latest if before is None else before)
            latents = call(skipped_step, None, guidance, *given, latents, move, *pair)
            yield latents


class Segment(NamedTuple):
    """A part of a plan that one scan runs: groups of evaluations that are alike.

    Attributes:
      groups: how many.
      held: of each group, evaluations after its first without the unconditional velocity.
    """

    groups: int
    held: int


def scan_plan(
    graph: nnx.GraphDef,
    params: nnx.State,
    conditions: Conditions,
    noise: jax.Array,
    times: np.ndarray,
    guidance: Guidance,
    mesh: Mesh | None,
    plan: SamplingPlan,
) -> jax.Array:
    """All steps as one program, the same for plans of equal segments and longest gap.

    Arguments, result and errors as of `sample`.
    """
    segments, moves = arrays_of(evaluations(plan.fitted(times, float(guidance.truncate)), times))
    with on_devices(mesh, scan_segments, params) as program:
        return program((graph, segments), guidance, params, conditions, noise, moves)


def arrays_of(
    found: Sequence[Evaluation],
) -> tuple[tuple[Segment, ...], tuple[np.ndarray, ...]]:
    """What `scan_segments` is compiled for, and the numbers that it is given.

    Returns:
      The segments; of each (groups, 1 + held, moves, 3) float32: t, t_next and weight, filled up
      to equally many moves with such of no length.
    """
    longest = max(len(evaluation.moves) for evaluation in found)
    rows = []
    for evaluation in found:
        end = evaluation.moves[-1].t_next
        filling = [PlannedStep(end, end, 0.0)] * (longest - len(evaluation.moves))
        rows.append([*evaluation.moves, *filling])
    groups: list[list[Any]] = []
    for evaluation, row in zip(found, rows, strict=True):
        if evaluation.both:
            groups.append([])
        groups[-1].append(row)
    parts = [list(part) for _, part in itertools.groupby(groups, len)]
    segments = tuple(Segment(len(part), len(part[0]) - 1) for part in parts)
    return segments, tuple(np.array(part, np.float32) for part in parts)


def scan_segments(
    static: tuple[nnx.GraphDef, tuple[Segment, ...]],
    guidance: Guidance,
    params: nnx.State,
    conditions: Conditions,
    noise: jax.Array,
    moves: tuple[jax.Array, ...],
) -> jax.Array:
    """The program of `scan_plan`: a scan for each segment, in it one over the moves.

    Args:
      static: graph of the model; segments.
      guidance: of the run.
      params: of the model.
      conditions: of B edits.
      noise: (B, h, w, 16) float32.
      moves: see `arrays_of`.
    """
    graph, segments = static

    def evaluate(carry: Any, moves: jax.Array, both: bool) -> Any:
        latents, latest = carry
        if both:
            velocity = both_velocities(graph, params, conditions, latents, moves[0, 0])
        else:
            velocity = with_held_difference(graph, params, conditions, latents, moves[0, 0], latest)

        def step(latents: jax.Array, move: jax.Array) -> Any:
            pair = (velocity, latest)
            return skipped_step(
                None, guidance, conditions, noise, latents, PlannedStep(*move), *pair
            ), None

        return jax.lax.scan(step, latents, moves)[0], velocity

    carry = (noise, jnp.zeros((2 * len(noise), *noise.shape[1:]), noise.dtype))
    for segment, numbers in zip(segments, moves, strict=True):

        def group(carry: Any, numbers: jax.Array, held: int = segment.held) -> Any:
            for i in range(1 + held):
                carry = evaluate(carry, numbers[i], both=i == 0)
            return carry, None

        carry, _ = jax.lax.scan(group, carry, numbers)
    return carry[0]
