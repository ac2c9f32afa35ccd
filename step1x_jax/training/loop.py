"""The training loop, from top to bottom."""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils

from step1x_jax.errors import UserError
from step1x_jax.parallel.devices import peak_of
from step1x_jax.parallel.mesh import check_batch_size, make_mesh
from step1x_jax.training.checkpoint import Checkpoints, load_first_adapters, load_weights
from step1x_jax.training.clock import Clock
from step1x_jax.training.config import TrainConfig, check_same_run
from step1x_jax.training.config_file import load_config, save_config
from step1x_jax.training.fingerprints import described
from step1x_jax.training.flops import step_flops
from step1x_jax.training.held_out import HeldOut, HeldOutBatches, put
from step1x_jax.training.late_errors import without_late_errors
from step1x_jax.training.lost_peer import ending_without_peers
from step1x_jax.training.metrics import Metrics
from step1x_jax.training.not_finite import check_finite
from step1x_jax.training.parts import abstract_base, freezing
from step1x_jax.training.profile import profiler
from step1x_jax.training.step import TrainState, abstract_state, make_train_step, new_state

# From the first step wanted to the batches from there on, one after another: this process's rows
# of target, source, text and text_lengths (see step.py) as numpy arrays; "ids" may name the edits.
Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]


def train(
    config: TrainConfig,
    workdir: epath.PathLike,
    batches: Batches,
    held_out: HeldOutBatches | None = None,
) -> TrainState:
    """Trains connector and DiT, or adapters of them, or goes on where `workdir` stopped.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint.

    Args:
      config: everything about the run.
      workdir: gets config.json, metrics.jsonl, tensorboard/ and checkpoints/.
      batches: the data; which rows a step gets depends on its number alone.
      held_out: edits that are not trained on, for config.held_out.

    Returns:
      The last state. Its step is below config.training.steps if the run was stopped early.

    Raises:
      UserError: the config does not fit the devices, the run in `workdir` or the weights to start
        from; the loss is no longer finite; the disk is full.
    """
    workdir = epath.Path(workdir)
    steps = config.training.steps

    # ---------------------------------------------------------------- config and devices
    config.validate()
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh, config.training.accumulate)
    for field in dataclasses.fields(config):
        print_once(f"{field.name}: {getattr(config, field.name)}")
    print_once(f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}")

    saving = contextlib.closing(Checkpoints(workdir, config.checkpoint.keep))
    with without_late_errors(), saving as checkpoints:
        config_path = workdir / "config.json"
        if checkpoints.steps and config_path.exists():
            check_same_run(config, load_config(config_path), workdir)

        # ------------------------------------------------------------ what stays as it is
        # With adapters: the weights that training.start_from names, every time the run starts.
        frozen: nnx.State = nnx.State({})
        base = None
        if config.lora.rank:
            source = config.training.start_from
            print_once(f"Adapters of rank {config.lora.rank} on the weights of {source}.")
            base, keep = described(freezing(config, mesh))
            wanted = abstract_base(config, mesh)
            frozen = load_weights(source, config.model, wanted, say=print_once, keep=keep)

        # ------------------------------------------------------------ how the run starts
        # 1. This run has checkpoints: go on from the newest that is whole.
        # 2. training.start_from is the folder of another run: its newest parameters; step 0.
        # 3. training.start_from is a .safetensors file, or a folder with one: its parameters.
        # 4. Otherwise: random parameters.
        # With adapters, 2 and 3 are done: they start from lora.start_from or as nothing added.
        abstract = abstract_state(config, mesh)
        state = checkpoints.restore(abstract, print_once, base)
        start = 0 if state is None else int(state.step)
        if start > steps:
            raise UserError(f"{workdir} has done {start} steps; training.steps={steps} are fewer.")
        if state is not None and start == steps:
            print_once(f"All {steps} steps in {workdir} are done.")
            return state

        # now, because either may be missing and what follows takes time
        data = batches(start)
        evaluation = HeldOut(config, mesh, held_out, workdir) if held_out else None
        if state is not None:  # 1
            print_once(f"Going on from step {start} of {steps} in {workdir}.")
        elif source := config.lora.start_from:
            print_once(f"Starting from the adapters of {source}.")
            adapters = load_first_adapters(source, config, abstract.params, say=print_once)
            state = new_state(config, abstract, adapters)
        elif (source := config.training.start_from) and not config.lora.rank:  # 2, 3
            print_once(f"Starting from the weights of {source}.")
            params = load_weights(source, config.model, abstract.params, say=print_once)
            state = new_state(config, abstract, params)
        else:  # 4
            print_once(f"Starting from {'new adapters' if config.lora.rank else 'random weights'}.")
            state = new_state(config, abstract)

        if jax.process_index() == 0:
            save_config(config, config_path)

        # ------------------------------------------------------------ the loop
        metrics, clock = Metrics(workdir, start, steps), Clock()
        train_step = make_train_step(config, mesh, abstract)
        # of a step of so many pictures of a size, counted in the traced model: once for each
        flops = functools.cache(functools.partial(step_flops, config))
        peak = peak_of(mesh.devices.flat[0])
        with (
            jax.set_mesh(mesh),
            contextlib.closing(metrics),
            profiler(config.training.profile_at, workdir) as before_step,
            _stop_signal() as stop_asked,
            ending_without_peers(),
        ):
            rows = _check_width(next(data), config)
            batch = put(rows, mesh)
            for step in range(start + 1, steps + 1):
                before_step(step)
                examples, height, width, _ = size = batch["target"].shape
                with clock.step(size, flops((height, width), examples)):
                    # this returns at once; while the devices work, the next batch is read and sent
                    state, values = train_step(state, batch, frozen)
                    done = rows
                    if step < steps:
                        with clock.reading():
                            rows = _check_width(next(data), config)
                        batch = put(rows, mesh)
                    numbers = {name: float(x) for name, x in jax.device_get(values).items()}
                check_finite(numbers, step, done, workdir)
                metrics.advance(step)

                stop = stop_asked(step)
                save = stop or step == steps or step % config.checkpoint.every == 0
                evaluate = evaluation is not None and step % config.held_out.every == 0
                if evaluation is not None and evaluate:
                    numbers |= evaluation.loss(state.params, frozen)
                    if picture := evaluation.show(state.params, frozen, step):
                        metrics.say(f"step {step}: {picture}")
                if evaluate or step in (1, steps) or step % config.training.log_every == 0:
                    metrics.write(step, numbers | clock.row(peak))
                if save:
                    metrics.flush()
                    # in the background; the last one is waited for
                    checkpoints.save(state, config, base)
                if stop:
                    break
    return state


def print_once(text: str) -> None:
    """Prints on process 0 only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def _check_width(batch: dict[str, np.ndarray], config: TrainConfig) -> dict[str, np.ndarray]:
    """The batch, if its embeddings are of the width that the model takes."""
    width, wanted = batch["text"].shape[-1], config.model.connector_in_channels
    if width != wanted:
        raise UserError(
            f"the records in {config.data.path} have embeddings of width {width}, the model takes"
            f" {wanted}: they are of another encoder; give others, or model.connector_in_channels."
        )
    return batch


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[int], bool]]:
    """Gives a function that says, after a step, whether the run has been asked to stop.

    With several processes, jax.distributed watches for SIGTERM on any of them and all stop after
    the same step.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return

    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[number])  # a second one ends the process at once

    before: dict[int, Any] = {
        number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda step: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
