"""A driver in a process of its own: python -m tests.curation.engine.driving WORKDIR ENGINE ACTORS.

Prints a line when it begins to work, and the manifest's digest when it is done.
"""

import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys

from step1x_jax.curation.engine.engine import Inline
from step1x_jax.errors import UserError
from tests.curation.toys import drive, toy, toy_stages

ROOT = pathlib.Path(__file__).parents[3]
PIPELINE = toy(count=24, part=3, stages=toy_stages(square={"seconds": 0.02, "size": 1000}))


def start(workdir, engine="inline", actors=0, **environment):
    """Starts the process."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.curation.engine.driving", workdir, engine, str(actors)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def main(workdir, engine, actors):
    with contextlib.ExitStack() as end:
        chosen = Inline()
        if engine == "ray":
            from step1x_jax.curation.engine.ray_actors import ray_engine

            chosen = end.enter_context(ray_engine(actors=int(actors)))
        print("working", flush=True)
        try:
            print(hashlib.sha256(drive(PIPELINE, workdir, chosen)).hexdigest())
        except UserError as e:
            sys.exit(f"error: {e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
