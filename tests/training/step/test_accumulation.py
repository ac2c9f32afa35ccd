"""Microbatches give the same result as the whole batch."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.loop import train
from step1x_jax.training.step.train_step import abstract_state, init_state, make_train_step
from tests.training.tiny import make_batch, tiny_config

pytestmark = pytest.mark.usefixtures("toy_model")
NOTHING = nnx.State({})
SIZE = 32


def big_batch(step):
    """Concatenate four small batches, so that all microbatches differ."""
    parts = [make_batch(4 * step + i) for i in range(SIZE // 8)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def big_batches(first_step):
    step = first_step
    while True:
        yield big_batch(step)
        step += 1


def config_of(accumulate, **optimizer):
    changes = {f"optimizer.{name}": value for name, value in optimizer.items()}
    changes |= {"data.batch_size": SIZE, "training.accumulate": accumulate}
    return override(tiny_config(steps=4), {"optimizer.clip_norm": 0.5, **changes})


def one_step(config, mesh):
    abstract = abstract_state(config, mesh)
    with jax.set_mesh(mesh):
        step = make_train_step(config, mesh, abstract)
        state, metrics = step(init_state(config, abstract), big_batch(0), NOTHING)
    return jax.device_get(state), {name: float(x) for name, x in metrics.items()}


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("mesh", [MeshConfig(data=2, fsdp=4), MeshConfig(fsdp=1)], ids=str)
def test_parts_give_what_the_whole_gives(mesh, accumulate):
    """Noise and timesteps of each example are the same; only float32 rounding differs."""
    devices = jax.devices()[:1] if mesh.fsdp == 1 else None
    state, metrics = one_step(config_of(1), make_mesh(MeshConfig(), jax.devices()[:1]))
    found, found_metrics = one_step(config_of(accumulate), make_mesh(mesh, devices))
    assert found_metrics == pytest.approx(metrics, rel=2e-6)
    for x, y in zip(jax.tree.leaves(found.opt_state), jax.tree.leaves(state.opt_state),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_sums_in_bfloat16_are_near():
    """Each of four partial sums is rounded to 8 bits: 2^-8 of the largest value."""
    dtypes = {"model.dtype": "bfloat16", "model.param_dtype": "bfloat16"}
    config = override(config_of(4, gradient_dtype="bfloat16"), dtypes)
    exact = override(config_of(1), dtypes)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    state, _ = one_step(exact, mesh)
    found, _ = one_step(config, mesh)
    for x, y in zip(jax.tree.leaves(found.opt_state[1][0].mu),
                    jax.tree.leaves(state.opt_state[1][0].mu), strict=True):  # fmt: skip
        np.testing.assert_allclose(x, y, atol=3 * 2**-8 * np.abs(y).max())
        assert np.abs(x - y).max() > 0


def test_activations_are_those_of_one_part():
    """No example is sent to another device, only weights and sums."""
    config, mesh = config_of(4), make_mesh(MeshConfig(fsdp=8))
    abstract = abstract_state(config, mesh)
    with jax.set_mesh(mesh):
        lowered = make_train_step(config, mesh, abstract).lower(abstract, big_batch(0), NOTHING)
        program = lowered.compile().as_text()
    # Per device and microbatch one example of 4 x 6 latents is in the model, never four.
    assert "f32[1,4,6,32]" in program
    assert "f32[4,4,6,32]" not in program
    sent = re.findall(r"= ([^=]*) (?:all-gather|all-to-all|collective-permute)[(-]", program)
    assert len(sent) > 3  # weights
    assert not [shapes for shapes in sent if ",4,6," in shapes]


@pytest.mark.slow
def test_resuming_is_bit_for_bit(tmp_path):
    config = config_of(2)
    whole = train(config, tmp_path / "whole", big_batches)
    shorter = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=2))
    train(shorter, tmp_path / "run", big_batches)
    again = train(config, tmp_path / "run", big_batches)
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_batch_that_does_not_split_into_parts(tmp_path):
    config = config_of(8)
    words = r"data\.batch_size 32 does not split over 8 devices .* and training\.accumulate=8 parts"
    with pytest.raises(UserError, match=words):
        train(config, tmp_path / "run", big_batches)
