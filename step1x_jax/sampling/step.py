"""One Euler step of an edit, and the programs that run steps on one device or over a mesh."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.parallel.compiler_options import compiler_options
from step1x_jax.sampling.guidance import Guidance, guide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditions:
    """The inputs of an edit. B edits, T text tokens, C width of the language model.

    Attributes:
      reference: (B, h', w', 16) latents of the source pictures; None for text-to-image.
      text: (B, T, C) embeddings, zero past their lengths.
      text_lengths: (B,) int32.
      negative_text: like text, of the empty instruction (or of what is not wanted) with the same
        picture.
      negative_lengths: (B,) int32.
      keep: (B, h, w, 1) bool, where the result is the source picture's, which then has the result's
        size; None keeps nothing.
    """

    reference: jax.Array | None
    text: jax.Array
    text_lengths: jax.Array
    negative_text: jax.Array
    negative_lengths: jax.Array
    keep: jax.Array | None = None


def euler_step(
    graph: nnx.GraphDef,
    guidance: Guidance,
    params: nnx.State,
    conditions: Conditions,
    noise: jax.Array,
    latents: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
) -> jax.Array:
    """latents + (t_next - t) * guided velocity; condition and negative run as one batch of 2B.

    What is to be kept is set to the source picture with the noise of t_next, so that the model sees
    at every step what it is to continue there.

    Args:
      graph: of the model.
      guidance: of the run.
      params: of the model.
      conditions: of B edits.
      noise: (B, h, w, 16) float32, from which the edits started.
      latents: (B, h, w, 16) float32 at time t.
      t: current time, a scalar.
      t_next: next time, a scalar.

    Returns:
      (B, h, w, 16) float32 at time t_next.
    """
    velocity = both_velocities(graph, params, conditions, latents, t)
    return advance(guidance, conditions, noise, latents, velocity, t, t_next)


def both_velocities(
    graph: nnx.GraphDef,
    params: nnx.State,
    conditions: Conditions,
    latents: jax.Array,
    t: jax.Array | float,
) -> jax.Array:
    """The model's velocities at time t, (2B, h, w, 16): the conditional ones, then the others."""
    c = conditions
    reference = None if c.reference is None else jnp.concatenate([c.reference] * 2)
    return nnx.merge(graph, params)(
        jnp.concatenate([latents] * 2),
        reference,
        jnp.concatenate([c.text, c.negative_text]),
        jnp.concatenate([c.text_lengths, c.negative_lengths]),
        jnp.full(2 * len(latents), t, jnp.float32),
    )


def advance(
    guidance: Guidance,
    conditions: Conditions,
    noise: jax.Array,
    latents: jax.Array,
    velocity: jax.Array,
    t: jax.Array | float,
    t_next: jax.Array | float,
) -> jax.Array:
    """The latents at t_next, from those at t and the velocities (2B, h, w, 16) there."""
    c = conditions
    conditional, unconditional = jnp.split(velocity, 2)
    guided = guide(conditional, unconditional, guidance, t)
    following = latents + (t_next - t) * guided
    if c.keep is None:
        return following
    assert c.reference is not None
    return jnp.where(c.keep, (1 - t_next) * c.reference + t_next * noise, following)


@functools.cache
def _jitted(program: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(program, static_argnums=0, compiler_options=dict(options))


@contextlib.contextmanager
def on_devices(mesh: Mesh | None, program: Callable[..., Any], params: nnx.State) -> Iterator[Any]:
    """The jitted program, to be called for parameters on the mesh, or on their one device.

    What the program's first argument is, it is compiled for.
    """
    device = min(jax.tree.leaves(params)[0].devices(), key=lambda device: device.id)
    jitted = _jitted(program, tuple(compiler_options(device).items()))
    if mesh is None:
        yield jitted
        return
    with jax.set_mesh(mesh):
        yield jitted
