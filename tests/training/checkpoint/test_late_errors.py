import sys
from types import SimpleNamespace

from step1x_jax.training.checkpoint.late_errors import suppress_late_errors


def test_one_kind_is_dropped_and_others_are_not(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    errors = [
        SimpleNamespace(exc_value=error)
        for error in (
            RuntimeError("Event loop is closed"),
            RuntimeError("anything else"),
            ValueError("Event loop is closed"),
        )
    ]
    with suppress_late_errors():
        for error in errors:
            sys.unraisablehook(error)
    assert told == errors[1:]
    sys.unraisablehook(errors[0])
    assert told[-1] is errors[0]
