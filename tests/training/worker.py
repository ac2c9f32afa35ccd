"""One process of a distributed run: python -m tests.training.worker PORT COUNT INDEX WORKDIR STEPS.

Prints the last step and a checksum of the parameters. With STOP_AT=N in the environment the last
process sends itself SIGTERM before the batch of step N, with KILL_AT=N SIGKILL.
"""

import os
import signal
import sys

import jax
import numpy as np

from step1x_jax.models import step1x_edit
from step1x_jax.training.loop import train
from tests.training.tiny import BATCH, Toy, make_batch, tiny_config


def main(port: str, count: int, index: int, workdir: str, steps: int) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index, heartbeat_timeout_seconds=10)
    step1x_edit.Step1XEdit = Toy
    rows = slice(index * BATCH // count, (index + 1) * BATCH // count)
    signals = {
        int(os.environ[name]): number
        for name, number in (("STOP_AT", signal.SIGTERM), ("KILL_AT", signal.SIGKILL))
        if name in os.environ
    }

    def batches(first_step):
        number = first_step
        while True:
            if number in signals and index == count - 1:
                os.kill(os.getpid(), signals[number])
            yield make_batch(number, rows)
            number += 1

    state = train(tiny_config(steps=steps, data=count), workdir, batches)
    norm = jax.jit(lambda params: sum(x.sum() for x in jax.tree.leaves(params)))(state.params)
    print("RESULT", int(state.step), np.float32(norm).tobytes().hex())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
