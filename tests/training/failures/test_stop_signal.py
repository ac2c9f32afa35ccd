"""Signals while the main thread is in a long call that Python cannot interrupt."""

import os
import signal
import subprocess
import sys
import time

import pytest

BUSY = """
import ctypes, os, sys
from step1x_jax.training.failures.stop_signal import watch_stop_signals

with watch_stop_signals() as asked:
    print("begun", flush=True)
    ctypes.CDLL(None).usleep(ctypes.c_uint(int(3e6)))  # as in the compiler; EINTR ends it once
    ctypes.CDLL(None).usleep(ctypes.c_uint(int(3e6)))
    ctypes.CDLL(None).usleep(ctypes.c_uint(int(3e6)))
    print("asked", asked(1), flush=True)
"""


@pytest.fixture
def busy():
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_said_at_once_and_a_second_one_ends(busy, number):
    start = time.monotonic()
    os.kill(busy.pid, number)
    assert busy.stdout.readline().startswith("stopping after this step")
    assert time.monotonic() - start < 2
    os.kill(busy.pid, number)
    assert busy.wait(timeout=2) == 128 + number
    assert busy.stdout.read() == ""


@pytest.mark.slow
def test_one_signal_waits_for_the_step(busy):
    os.kill(busy.pid, signal.SIGINT)
    busy.stdout.readline()
    assert busy.stdout.read() == "asked True\n"
    assert busy.wait() == 0
