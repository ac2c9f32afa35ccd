"""Skipped steps: rules of plans, and both drivers beside a plain loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.json_files import as_json, build
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.sampling import skipping
from step1x_jax.sampling.guidance import Guidance, guide
from step1x_jax.sampling.noise import noise_from_seed
from step1x_jax.sampling.plan import BUILT_IN, SamplingPlan, every_step, plan_of
from step1x_jax.sampling.sampler import sample, sample_with_progress
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.sampling.step import Conditions, _jitted

SHAPE = (2, 4, 4, 16)
GUIDANCE = Guidance(4.0, 0.8)
STEPS = 10
TIMES = timesteps(STEPS, 4, shift=2.0)
PLANS = {
    "held": SamplingPlan(STEPS, (0, 1, 2, 5, 8, 9), (0, 1, 2, 5, 8, 9), 0),
    "linear": SamplingPlan(STEPS, (0, 3, 4, 7, 9), (0, 3, 4, 7, 9), 1),
    "unconditional held": SamplingPlan(STEPS, tuple(range(STEPS)), (0, 2, 4, 6, 7, 8, 9), 1),
    "both, unevenly": SamplingPlan(STEPS, (0, 1, 2, 3, 5, 7, 9), (0, 3, 9), 1),
    "the first alone": SamplingPlan(STEPS, (0,), (0,), 1),
}


class Bent(nnx.Module):
    """A velocity that depends on everything, and is bent in t. Counts what it evaluates."""

    def __init__(self):
        self.one = nnx.Param(jnp.ones(()))

    def __call__(self, latents, reference, text, lengths, t):
        assert t.shape == (len(latents),)
        t = t[:, None, None, None]
        base = text[:, 0, 0][:, None, None, None] * jnp.sin(3 * t) + reference * t**2
        return (base - 0.5 * latents + jnp.cos(latents)) * self.one


def conditions(keep=None):
    text = jax.random.normal(jax.random.key(1), (2, 3, 4)) * 3
    lengths = jnp.array([3, 3])
    reference = jax.random.normal(jax.random.key(2), SHAPE)
    return Conditions(reference, text, lengths, -text[::-1], lengths, keep)


NOISE = noise_from_seed(3, SHAPE)
KEEP = jnp.zeros((2, 4, 4, 1), bool).at[:, :2].set(True)


def plain_loop(model, given, plan, times=TIMES, guidance=GUIDANCE):
    """What a plan means, step by step; its own words. Latents after every step."""
    latents, after = NOISE, []
    known = []  # time, conditional and unconditional velocity of computed steps
    for i in range(len(times) - 1):
        t, t_next = float(times[i]), float(times[i + 1])
        time = jnp.full(2, t)
        if i in plan.computed:
            c = model(latents, given.reference, given.text, given.text_lengths, time)
            if i in plan.unconditional:
                negative = (given.negative_text, given.negative_lengths)
                u = model(latents, given.reference, *negative, time)
            else:
                u = c + (known[-1][2] - known[-1][1])
            known.append((t, c, u))
        elif plan.order == 1 and len(known) > 1:
            (t0, c0, u0), (t1, c1, u1) = known[-2:]
            c = c1 + (c1 - c0) * (t - t1) / (t1 - t0)
            u = u1 + (u1 - u0) * (t - t1) / (t1 - t0)
        else:
            _, c, u = known[-1]
        latents = latents + (t_next - t) * guide(c, u, guidance, t)
        if given.keep is not None:
            kept = (1 - t_next) * given.reference + t_next * NOISE
            latents = jnp.where(given.keep, kept, latents)
        after.append(latents)
    return after


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_both_drivers_do_what_a_plain_loop_does(name, masked):
    given = conditions(KEEP if masked else None)
    plan, model = PLANS[name].fitted(TIMES, GUIDANCE.truncate), Bent()
    want = plain_loop(model, given, plan)
    shown = []
    looped = sample_with_progress(
        model, given, NOISE, TIMES, GUIDANCE, lambda i, x: shown.append((i, x)), plan=PLANS[name]
    )
    scanned = sample(model, given, NOISE, TIMES, GUIDANCE, plan=PLANS[name])
    # float32 rounding of values to 10
    np.testing.assert_allclose(looped, want[-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scanned, want[-1], rtol=1e-5, atol=1e-5)
    assert [i for i, _ in shown] == list(range(1, STEPS + 1))
    for (_, x), y in zip(shown, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_a_plan_that_skips_nothing_is_the_exact_sampler():
    given, model = conditions(), Bent()
    exact = sample(model, given, NOISE, TIMES, GUIDANCE)
    whole = sample(model, given, NOISE, TIMES, GUIDANCE, plan=every_step(STEPS))
    np.testing.assert_allclose(whole, exact, rtol=1e-5, atol=1e-5)
    skipped = sample(model, given, NOISE, TIMES, GUIDANCE, plan=PLANS["linear"])
    assert np.abs(skipped - exact).max() > 1e-3


def test_where_the_unconditional_velocity_is_held_the_batch_is_half():
    sizes = []

    class Noting(Bent):
        def __call__(self, latents, *others):
            sizes.append(len(latents))
            return super().__call__(latents, *others)

    sample_with_progress(
        Noting(), conditions(), NOISE, TIMES, GUIDANCE, lambda *_: None,
        plan=PLANS["unconditional held"],
    )  # fmt: skip
    assert set(sizes) == {4, 2}


def test_on_a_mesh_that_takes_the_branches_apart_the_result_is_the_same():
    """Of one edit, whose conditional branch by itself would not split."""
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    given = jax.tree.map(lambda x: x[:1], conditions())
    plan = PLANS["both, unevenly"]
    want = sample(Bent(), given, NOISE[:1], TIMES, GUIDANCE, plan=plan)
    graph, params = nnx.split(Bent())
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params, given, noise = jax.device_put((params, given, NOISE[:1]), whole)
    model = nnx.merge(graph, params)
    for got in (
        sample(model, given, noise, TIMES, GUIDANCE, mesh, plan),
        sample_with_progress(model, given, noise, TIMES, GUIDANCE, lambda *_: None, mesh, plan),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_loop_compiles_three_programs_for_all_plans_and_the_scan_one_for_each_form():
    given, model = conditions(), Bent()

    def compiled(*programs):
        return [_jitted(getattr(skipping, name), ())._cache_size() for name in programs]

    names = ("full_step", "conditional_step", "skipped_step")
    before = None
    for plan in PLANS.values():
        sample_with_progress(model, given, NOISE, TIMES, GUIDANCE, lambda *_: None, plan=plan)
    before = compiled(*names)
    other = SamplingPlan(STEPS, (0, 2, 5, 6), (0, 5), 0)
    sample_with_progress(
        model, given, NOISE, TIMES, Guidance(2.0, 0.9), lambda *_: None, plan=other
    )
    assert compiled(*names) == before

    plan = PLANS["linear"].fitted(TIMES, 0.0)
    sample(model, given, NOISE, TIMES, Guidance(4.0, 0.0), plan=plan)
    before = compiled("scan_segments")
    moved = dataclasses.replace(plan, computed=(0, 2, 5, 8, 9), unconditional=(0, 2, 5, 8, 9))
    sample(model, given, NOISE, TIMES, Guidance(3.0, 0.0), plan=moved)
    assert compiled("scan_segments") == before


def test_where_damping_ends_both_velocities_are_computed():
    plan = SamplingPlan(STEPS, (0, 9), (0,), 1)
    end = next(i for i, t in enumerate(TIMES) if t <= 0.8)
    assert 0 < end < 9
    fitted = plan.fitted(TIMES, 0.8)
    assert fitted.computed == (0, end, 9)
    assert fitted.unconditional == (0, end)
    assert fitted.fitted(TIMES, 0.8) == fitted
    for never in (1.0, 0.0):  # damped nowhere, everywhere
        assert plan.fitted(TIMES, never) == plan


def test_a_plan_for_another_number_of_steps_is_refused():
    with pytest.raises(UserError, match="the plan is for 10 steps, and there are 4"):
        sample(Bent(), conditions(), NOISE, timesteps(4, 4), GUIDANCE, plan=PLANS["held"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"computed": (1, 2)}, "p: computed should be ascending steps that begin with 0"),
        ({"computed": ()}, "p: computed should be ascending"),
        ({"computed": (0, 2, 2)}, "p: computed should be ascending"),
        ({"unconditional": (2,)}, "p: unconditional should be ascending"),
        ({"computed": (0, 10)}, "p: computed has step 10, and there are 10 steps"),
        ({"unconditional": (0, 5)}, "p: unconditional has steps that are not in computed"),
        ({"order": 2}, "p: order is 2"),
        ({"computed": (0, "x")}, "p: computed"),
        ({"num_steps": 0}, "p: num_steps is 0"),
    ],
)
def test_impossible_plans_are_one_sentence(change, reason):
    plan = dataclasses.replace(PLANS["linear"], **change)
    with pytest.raises(UserError, match=reason) as caught:
        plan.validate("p")
    assert "\n" not in str(caught.value)


def test_plans_travel_as_json():
    for plan in PLANS.values():
        plan.validate()
        assert build(SamplingPlan, as_json(plan), "file") == plan


@pytest.mark.parametrize("name", [*PLANS, *BUILT_IN])
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 27, 50, 1000])
def test_scaled_plans_are_plans_of_about_that_share(name, steps):
    plan = PLANS.get(name) or BUILT_IN[name]
    scaled = plan.scaled(steps)
    scaled.validate()
    assert scaled.num_steps == steps
    share = len(plan.computed) / plan.num_steps
    assert len(scaled.computed) == min(steps, int(np.ceil(share * steps - 1e-9)))
    if steps >= 50 and name in BUILT_IN:
        # at the same places, but for what cannot be denser than every step
        ranks = np.linspace(0, 1, 9)
        ours, theirs = (
            np.interp(ranks, np.linspace(0, 1, len(p.computed)), p.computed) / (p.num_steps - 1)
            for p in (scaled, plan)
        )
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_names_mean_stored_plans_else_those_built_in():
    assert plan_of("exact", {}, 28) is None
    for name, plan in BUILT_IN.items():
        assert plan_of(name, {}, 28) == plan
    stored = {"fast": PLANS["held"]}
    assert plan_of("fast", stored, STEPS) == PLANS["held"]
    assert plan_of("fast", stored, 20) == PLANS["held"].scaled(20)
    assert plan_of("balanced", stored, 28) == BUILT_IN["balanced"]
