"""The table of launch/guides/weights.md: weights sent through every format and back.

    python -m tests.weights.round_trips FOLDER

Each way is a chain of launch.convert; what comes out is compared with what went in, byte for byte.
"""

import pathlib
import subprocess
import sys
from typing import NamedTuple

from safetensors import safe_open

from tests.golden import VECTORS

FILE = "weights.safetensors"
LORA = VECTORS / "lora" / "lora_kohya.safetensors"


class Way(NamedTuple):
    """The input and the steps: name of the output, and arguments."""

    source: pathlib.Path
    steps: tuple[tuple[str, ...], ...]


FILE_OUT = ("back.safetensors", "--to=official")
SIZES = f"--base={VECTORS / 'dit_v1_0'}"
WAYS = {
    "v1.1: official, diffusers, official": Way(
        VECTORS / "dit_v1_1" / FILE, (("a", "--to=diffusers"), FILE_OUT)
    ),
    "v1.1: official, Orbax, official": Way(
        VECTORS / "dit_v1_1" / FILE, (("a", "--to=orbax"), FILE_OUT)
    ),
    "v1.0: official, Orbax, official": Way(
        VECTORS / "dit_v1_0" / FILE, (("a", "--to=orbax"), FILE_OUT)
    ),
    "v1.1: official, Orbax, diffusers, Orbax, official": Way(
        VECTORS / "dit_v1_1" / FILE,
        (("a", "--to=orbax"), ("b", "--to=diffusers"), ("c", "--to=orbax"), FILE_OUT),
    ),
    "autoencoder: official, diffusers, official": Way(
        VECTORS / "vae" / FILE, (("a", "--to=diffusers"), FILE_OUT)
    ),
    "LoRA: kohya, PEFT's folder, kohya": Way(
        LORA, (("a", "--to=peft", SIZES), ("back.safetensors", "--to=kohya", SIZES))
    ),
    "LoRA: kohya, diffusers' file, kohya": Way(
        LORA, (("a.safetensors", "--to=peft", SIZES), ("back.safetensors", "--to=kohya", SIZES))
    ),
    "LoRA: kohya, Orbax, PEFT's folder, kohya": Way(
        LORA,
        (
            ("a", "--to=orbax", SIZES),
            ("b", "--to=peft"),
            ("back.safetensors", "--to=kohya", SIZES),
        ),
    ),
}


def commands(way, folder):
    """Returns arguments of launch.convert for each step; the last output is the result."""
    source = way.source
    for name, *arguments in way.steps:
        yield [f"--input={source}", f"--output={folder / name}", *arguments]
        source = folder / name


def contents(path):
    """Returns tensors as dtype, shape and bytes, and the total number of bytes."""
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = {name: (str(x.dtype), x.shape, x.tobytes()) for name, x in tensors.items()}
    return found, sum(x.nbytes for x in tensors.values())


def main(folder):
    print("| way | tensors | bytes | equal |\n|---|---|---|---|")
    for i, (name, way) in enumerate(WAYS.items()):
        place = pathlib.Path(folder) / str(i)
        for arguments in commands(way, place):
            command = [sys.executable, "-m", "launch.convert", *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        before, size = contents(way.source)
        after, _ = contents(place / "back.safetensors")
        print(f"| {name} | {len(before)} | {size:,} | {'yes' if before == after else '**no**'} |")


if __name__ == "__main__":
    main(sys.argv[1])
