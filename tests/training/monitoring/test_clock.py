"""Step time, data time and goodput with a clock that is set by hand."""

import jax
import pytest

from step1x_jax.training.monitoring import clock as module
from step1x_jax.training.monitoring.clock import Clock


@pytest.fixture
def time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def run(clock, time, computing, reading, size=4, flops=8e12):
    with clock.measure_step(size, flops):
        time[0] += computing
        with clock.measure_data():
            time[0] += reading


def test_a_step_s_parts_and_how_much_of_the_devices_is_used(time):
    clock = Clock()
    run(clock, time, computing=50.0, reading=7.0)  # compiles
    assert clock.take_row(1e12) == {}
    run(clock, time, computing=2.0, reading=1.0)
    run(clock, time, computing=4.0, reading=1.0)
    time[0] += 35.0  # a checkpoint
    row = clock.take_row(peak=1e12)
    assert row["seconds_per_step"] == 4.0
    assert row["data_seconds"] == 1.0
    assert row["mfu"] == pytest.approx(8 / (4 * jax.device_count()))
    assert row["goodput"] == pytest.approx(8 / (57 + 8 + 35))

    run(clock, time, computing=3.0, reading=0.0)
    row = clock.take_row(peak=None)
    assert (row["seconds_per_step"], row["data_seconds"]) == (3.0, 0.0)  # since the last row
    assert "mfu" not in row
    assert row["goodput"] == pytest.approx(11 / 103)


def test_every_size_compiles_once_and_counts_its_own_operations(time):
    clock = Clock()
    for size, seconds in ((4, 50.0), (8, 70.0)):
        run(clock, time, seconds, 7.0, size)  # compiles
    run(clock, time, computing=1.0, reading=0.0, size=4, flops=2e12)
    run(clock, time, computing=5.0, reading=1.0, size=8, flops=10e12)
    row = clock.take_row(peak=1e12)
    assert (row["seconds_per_step"], row["data_seconds"]) == (3.5, 0.5)
    assert row["mfu"] == pytest.approx(12 / (7 * jax.device_count()))
    assert row["goodput"] == pytest.approx(7 / (57 + 77 + 7))
