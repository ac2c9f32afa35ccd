"""The trace of some steps is written to the run's folder."""

import pytest

from step1x_jax.overrides import override
from step1x_jax.training.loop import train
from tests.training.tiny import batches, tiny_config

pytestmark = pytest.mark.usefixtures("toy_model")


@pytest.mark.parametrize(
    ("first", "traced"), [(2, True), pytest.param(4, True, marks=pytest.mark.slow), (0, False)]
)
def test_the_steps_asked_for_are_traced(tmp_path, first, traced):
    """Also if the run ends before the trace is complete."""
    config = override(tiny_config(steps=5), {"training.profile_at": first})
    train(config, tmp_path, batches)
    assert bool(list((tmp_path / "profile").rglob("*.xplane.pb"))) == traced
