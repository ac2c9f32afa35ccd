from step1x_jax.data import idle_clock


def test_idle_time_is_measured(monkeypatch):
    now = iter([0.0, 3.0, 4.0, 6.0, 7.0, 9.0])
    monkeypatch.setattr(idle_clock.time, "perf_counter", lambda: next(now))
    clock = idle_clock.IdleClock()  # at 0
    clock.start()  # at 3
    clock.start()
    clock.stop()  # at 4, one is still running
    clock.stop()  # at 6
    clock.start()  # at 7
    assert clock.idle == 3 + 1
