"""The steps that launch.calibrate finds, beside a plain search over all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.sampling.calibration import Trajectory, best_steps, candidates, gap_errors, record
from step1x_jax.sampling.guidance import Guidance, guide
from step1x_jax.sampling.sampler import sample_with_progress
from step1x_jax.sampling.schedule import timesteps
from tests.sampling.test_plan import GUIDANCE, KEEP, NOISE, TIMES, Bent, conditions

N = 7
TIME = timesteps(N, 4, shift=2.0)


def trajectory(seed, changing=None):
    rng = np.random.default_rng(seed)
    velocities = np.cumsum(rng.normal(size=(N, 2, 4, 4, 16)), axis=0).astype(np.float32)
    whole = np.ones((4, 4, 1), bool) if changing is None else changing
    return Trajectory(TIME, velocities, Guidance(3.0, 0.8), whole)


def plain_error(given, steps, order):
    """The sum over gaps of the mean squared error of latents, in its own words."""
    total = 0.0
    for number, step in enumerate(steps):
        end = [*steps, N][number + 1]
        off = np.zeros((4, 4, 16))
        for k in range(step + 1, end):
            t, dt = given.times[k], given.times[k + 1] - given.times[k]
            latest = given.velocities[step]
            velocity = latest
            if order == 1 and number > 0:
                before = steps[number - 1]
                slope = (latest - given.velocities[before]) / (
                    given.times[step] - given.times[before]
                )
                velocity = latest + slope * (t - given.times[step])
            guided, exact = (
                guide(jnp.asarray(v[:1]), jnp.asarray(v[1:]), given.guidance, t)[0]
                for v in (velocity, given.velocities[k])
            )
            off += dt * np.where(given.changing, guided - exact, 0)
        total += np.mean(off**2)
    return total


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_the_best_steps_are_those_of_a_search_over_all(order, count):
    given = trajectory(count)
    least, steps = best_steps(gap_errors(given, order), count)
    every = [(0, *rest) for rest in itertools.combinations(range(1, N), count - 1)]
    want = {one: plain_error(given, one, order) for one in every}
    best = min(want, key=lambda one: want[one])
    assert steps == best
    assert least == pytest.approx(want[best], rel=1e-4, abs=1e-9)  # float32


def test_steps_that_have_to_be_computed_are():
    given = trajectory(0)
    errors = gap_errors(given, 1)
    free = best_steps(errors, 3)[1]
    forced = next(i for i in range(1, N) if i not in free)
    least, steps = best_steps(errors, 3, [forced])
    every = [(0, *rest) for rest in itertools.combinations(range(1, N), 2) if forced in rest]
    want = {one: plain_error(given, one, 1) for one in every}
    assert steps == min(want, key=lambda one: want[one])
    assert least == pytest.approx(min(want.values()), rel=1e-4)


def test_a_planted_bend_is_computed():
    """Velocities on a straight line but for one place: computed are the steps around it."""
    velocities = np.linspace(0, 1, N)[:, None, None, None, None] * np.ones((N, 2, 4, 4, 16))
    velocities[4:] += 3
    given = Trajectory(TIME, np.float32(velocities), Guidance(1.0, 1.0), np.ones((4, 4, 1), bool))
    assert 4 in best_steps(gap_errors(given, 0), 2)[1]


def test_what_a_mask_keeps_costs_nothing():
    nothing = np.zeros((4, 4, 1), bool)
    least, _ = best_steps(gap_errors(trajectory(0, nothing), 1), 2)
    assert least == 0


def bent(step, size):
    """An edit whose velocities jump once."""
    velocities = np.zeros((N, 2, 4, 4, 16), np.float32)
    velocities[step:] = size
    return Trajectory(TIME, velocities, Guidance(1.0, 0.8), np.ones((4, 4, 1), bool))


def test_candidates_are_for_the_average_and_for_the_worst_edit():
    """Three edits that bend a little at one step, and one that bends more at another."""
    (end,) = {int(np.sum(TIME[:-1] > 0.8))}
    assert 0 < end < 4
    given = [bent(4, 1.0)] * 3 + [bent(6, 2.0)]
    found = candidates(given, 3)
    assert {plan.order for plan in found} == {0, 1}
    for plan in found:
        plan.validate()
        assert plan.fitted(TIME, 0.8) == plan
        assert (len(plan.computed), plan.unconditional) == (3, plan.computed)
    assert {plan.computed for plan in found if plan.order == 0} == {(0, end, 4), (0, end, 6)}


def test_what_is_recorded_is_the_exact_trajectory():
    given = jax.tree.map(lambda x: x[:1], conditions(KEEP))
    latents = [NOISE[:1]]
    sample_with_progress(Bent(), given, NOISE[:1], TIMES, GUIDANCE, lambda _, x: latents.append(x))
    recorded = list(record(Bent(), given, NOISE[:1], TIMES, GUIDANCE))
    assert len(recorded) == len(TIMES) - 1
    for x, t, velocities in zip(latents[:-1], TIMES, recorded, strict=False):
        for text, got in zip((given.text, given.negative_text), velocities, strict=True):
            want = Bent()(x, given.reference, text, given.text_lengths, jnp.full(1, t))
            np.testing.assert_allclose(got, want[0], rtol=1e-4, atol=1e-4)
