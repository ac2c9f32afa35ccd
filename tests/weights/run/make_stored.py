"""Makes tests/weights/run/stored/NAME.tar.xz with the code of a checkout; see the README there.

    PYTHONPATH=CHECKOUT python tests/weights/run/make_stored.py NAME

It uses only what every version since schema 2 has, so that any of them can be asked.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile

import tests.conftest  # noqa: F401  the same devices and compiler as the tests have

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

import step1x_jax
from step1x_jax.data.pipeline import DataConfig
from step1x_jax.models.config import ModelConfig
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    TrainConfig,
    TrainingConfig,
)
from step1x_jax.training.loop import train

STORED = pathlib.Path(__file__).parent / "stored"
STOPPED, STEPS = 2, 4  # the run was stopped after the first of these


def run_config() -> TrainConfig:
    """A run of all parameters of the real model, with sizes that are small and mostly distinct."""
    return TrainConfig(
        model=ModelConfig(
            version="v1.0",
            hidden_size=6,
            num_heads=1,
            axes_dim=(2, 2, 2),
            depth=1,
            depth_single_blocks=2,
            mlp_ratio=2.0,
            vec_in_dim=6,
            context_in_dim=4,
            connector_in_channels=10,
            connector_hidden_size=4,
            connector_heads=2,
            connector_depth=1,
            text_length=6,
            gate_init=0.5,
            dtype="float32",
        ),
        data=DataConfig(batch_size=8),
        optimizer=OptimizerConfig(
            learning_rate=0.1,
            eps=0.01,  # so large that gradients that are rounding alone change nothing
            warmup_steps=1,
            ema_decay=0.5,
        ),
        training=TrainingConfig(steps=STEPS, log_every=1),
        checkpoint=CheckpointConfig(every=STOPPED),
        mesh=MeshConfig(data=4, fsdp=2),
    )


def lora_config() -> TrainConfig:
    """A run of adapters on the weights that the run above had when it was stopped."""
    changes = {"training.steps": STOPPED, "training.start_from": "run"}
    return override(run_config(), {"lora.rank": 2, "lora.alpha": 4.0, **changes})


def batches(first_step: int):
    """Yields batches without end; each depends only on its step."""
    for step in range(first_step, 1 << 31):
        rng = np.random.default_rng(step)
        latents = (8, 4, 6, 16)
        batch = {
            "target": rng.standard_normal(latents, np.float32),
            "source": rng.standard_normal(latents, np.float32),
            "text": rng.standard_normal((8, 6, 10), np.float32),
            "text_lengths": rng.integers(1, 7, 8).astype(np.int32),
        }
        valid = np.arange(6) < batch["text_lengths"][:, None]
        yield batch | {"text": batch["text"] * valid[:, :, None]}


def stopped(first_step: int):
    """Yields the same; during step STOPPED it sends the process SIGTERM."""
    for step, batch in enumerate(batches(first_step), first_step):
        if step == STOPPED:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch


def named(tree) -> dict[str, np.ndarray]:
    """A tree's arrays by the path of modules and attributes, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    arrays = [np.asarray(x) for _, x in leaves]
    return dict(zip([name.removesuffix(".value") for name in names], arrays, strict=True))


def arrays_of(state) -> dict[str, np.ndarray]:
    """All arrays of a TrainState."""
    parts = {"params": state.params, "optimizer": state.opt_state, "ema": state.ema}
    return {f"{part}.{n}": x for part, tree in parts.items() for n, x in named(tree).items()}


def arithmetic() -> dict:
    """What results depend on besides the program: jax, and the processor's instructions.

    The numbers are the bits of sums, products and functions as XLA computes them here.
    """

    @jax.jit
    def numbers(x):
        y = jax.nn.gelu(x @ x.T) + jnp.sin(x[:, :24])
        return jnp.concatenate([y.sum(0), jax.nn.softmax(y).mean(1), jax.lax.rsqrt(1 + y * y)[0]])

    x = np.random.default_rng(0).standard_normal((24, 40), np.float32)
    return {"jax": jax.__version__, "bits": np.asarray(numbers(x)).view(np.int32).tolist()}


def convert(*arguments: str) -> None:
    """The checkout's launch.convert."""
    subprocess.run([sys.executable, "-m", "launch.convert", *arguments], check=True)


def make(folder: pathlib.Path) -> None:
    """Fills the folder; names in it are relative."""
    os.chdir(folder)
    state = train(run_config(), "run", stopped)
    np.savez("run.npz", **arrays_of(state))
    shutil.copytree("run", "longer")
    arrays = arrays_of(train(run_config(), "longer", batches))
    shutil.rmtree("longer")
    np.savez("end.npz", **{n: x for n, x in arrays.items() if not n.startswith("optimizer.")})
    convert("--input=run", "--output=run.safetensors")
    pathlib.Path("arithmetic.json").write_text(json.dumps(arithmetic()))
    if not hasattr(TrainConfig(), "lora"):  # the first code of schema 2
        return
    state = train(lora_config(), "lora", batches)
    np.savez("lora.npz", **arrays_of(state))
    convert("--input=run", "--to=orbax", "--dtype=bfloat16", "--output=weights")
    convert("--input=lora", "--to=kohya", "--output=lora.safetensors")
    convert("--input=lora.safetensors", "--base=run", "--to=orbax", "--output=adapters")


def without_traces(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Packs a file without its owner and time."""
    if entry.name.endswith(("/tensorboard", "/.lock")):
        return None
    return entry.replace(uid=0, gid=0, uname="", gname="", mtime=0, deep=False)


def main() -> None:
    """Makes and packs."""
    print(f"made by {step1x_jax.__file__}")
    with tempfile.TemporaryDirectory() as folder:
        make(pathlib.Path(folder))
        with tarfile.open(STORED / f"{sys.argv[1]}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(folder, ".", filter=without_traces)


if __name__ == "__main__":
    main()
