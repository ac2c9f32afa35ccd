"""One process of a distributed run: python -m tests.training.worker PORT COUNT INDEX WORKDIR STEPS.

Prints the last step and a checksum of the parameters or, like the commands, the message of a
UserError. Environment variables: with STOP_AT=N the last process sends itself SIGTERM before the
batch of step N, with KILL_AT=N SIGKILL; with FULL_AT=N the disk is full from then on. With DATA the
batches come from a data set, and the ids of their edits are written to WORKDIR/fed-START-INDEX.
"""

import contextlib
import json
import os
import pathlib
import resource
import signal
import sys
import time

import jax
import numpy as np

from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.errors import UserError
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

    def of_dataset(first_step):
        """Yield batches of the data set and log their ids."""
        config = DataConfig(path=os.environ["DATA"], batch_size=BATCH)
        batches = make_batches(
            config, text_length=8, seed=0, start_step=first_step,
            process_index=index, process_count=count,
        )  # fmt: skip
        with open(pathlib.Path(workdir) / f"fed-{first_step}-{index}", "w") as file:
            for number, batch in enumerate(batches, first_step):
                print(json.dumps([number, batch["ids"].tolist()]), file=file, flush=True)
                yield batch

    def random(first_step):
        number = first_step
        while True:
            yield make_batch(number, rows)
            number += 1

    def batches(first_step):
        of_steps = of_dataset(first_step) if "DATA" in os.environ else random(first_step)
        number = first_step
        while True:
            if number in signals and index == count - 1:
                os.kill(os.getpid(), signals[number])
            if os.environ.get("FULL_AT") == str(number):
                fill(pathlib.Path(workdir))
            yield next(of_steps)
            number += 1

    try:
        state = train(tiny_config(steps=steps, data=count), workdir, batches)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
    norm = jax.jit(lambda params: sum(x.sum() for x in jax.tree.leaves(params)))(state.params)
    print("RESULT", int(state.step), np.float32(norm).tobytes().hex())


def fill(workdir: pathlib.Path) -> None:
    """Fill a small disk; on other disks limit files to 4 KiB.

    Waits first for the checkpoint that is being written.
    """
    while not any(path.name.isdigit() for path in (workdir / "checkpoints").iterdir()):
        time.sleep(0.05)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not (workdir / ".." / "small").exists():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        return
    with contextlib.suppress(OSError), open(workdir / ".." / "ballast", "wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
