"""Real processes of some CPU devices each, for tests; they join by jax.distributed."""

import os
import pathlib
import socket
import subprocess
import sys


def start(module, *arguments, processes=2, devices=2, **environment):
    """Starts python -m MODULE PORT COUNT INDEX ARGUMENTS in each process, with so many devices."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("count=8", f"count={devices}")
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, (port, processes, index, *arguments))],
            cwd=pathlib.Path(__file__).parents[1],
            env=os.environ | {"XLA_FLAGS": flags} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]


def results(module, *arguments):
    """What each of two processes prints behind RESULT; both must succeed."""
    started = start(module, *arguments)
    ends = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
    return [out.split("RESULT")[1].strip() for out, _ in ends]
