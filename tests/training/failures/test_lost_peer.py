"""Computations that fail because another process was lost."""

import jax
import numpy as np
import pytest

from step1x_jax.training.failures import lost_peer
from step1x_jax.training.failures.lost_peer import LOST, exit_on_lost_peer


class Ended(BaseException):
    """Raised instead of ending the process."""


@pytest.fixture
def end(monkeypatch):
    def stop(code):
        raise Ended(code)

    monkeypatch.setattr(lost_peer.os, "_exit", stop)
    monkeypatch.setattr(jax, "process_count", lambda: 2)


def fail(message):
    with exit_on_lost_peer():
        raise jax.errors.JaxRuntimeError(message)


@pytest.mark.usefixtures("end")
def test_the_process_ends_at_once_with_a_sentence(capsys):
    with pytest.raises(Ended) as ended:
        fail("UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore")
    assert ended.value.args == (LOST,)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "Connection closed by peer); start all processes again" in sentence


@pytest.mark.usefixtures("end")
def test_too_little_memory_is_another_matter():
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        fail("RESOURCE_EXHAUSTED: out of memory")


@pytest.mark.usefixtures("end")
def test_neither_is_what_was_moved_unasked():
    error = pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed")
    with error, exit_on_lost_peer(), jax.transfer_guard("disallow"):
        jax.jit(lambda x: x)(np.ones(2))


def test_one_process_has_no_peers():
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo"):
        fail("Gloo")
