"""The training loop, from top to bottom."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from etils import epath
from flax import nnx

from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.errors import UserError
from step1x_jax.files import exclusive, user_path
from step1x_jax.parallel.devices import peak_of
from step1x_jax.parallel.mesh import check_batch_size, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.checkpoint.late_errors import without_late_errors
from step1x_jax.training.config import TrainConfig, check_same_run
from step1x_jax.training.config_file import save_config
from step1x_jax.training.failures.first_process import on_first_process
from step1x_jax.training.failures.lost_peer import ending_without_peers
from step1x_jax.training.failures.not_finite import check_finite
from step1x_jax.training.failures.stop_signal import stop_signal
from step1x_jax.training.monitoring.clock import Clock
from step1x_jax.training.monitoring.flops import step_flops
from step1x_jax.training.monitoring.held_out import HeldOut, HeldOutBatches, check_width, put
from step1x_jax.training.monitoring.metrics import Metrics
from step1x_jax.training.monitoring.profile import profiler
from step1x_jax.training.parts import abstract_base, freezing
from step1x_jax.training.starting import load_first_adapters, open_start
from step1x_jax.training.step.train_step import (
    TrainState,
    abstract_state,
    make_train_step,
    new_state,
)
from step1x_jax.weights.load import load_parameters
from step1x_jax.weights.run.fingerprints import described
from step1x_jax.weights.run.folder import check_can_save, folder_of

# From the first step wanted to the batches from there on, one after another: this process's rows
# of target, source, text and text_lengths (see step/train_step.py) as numpy arrays; "ids" may name
# the edits.
Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]
LOCK = ".lock"  # in the run's folder, while a process trains there


def train(
    config: TrainConfig,
    workdir: epath.PathLike,
    batches: Batches,
    held_out: HeldOutBatches | None = None,
    records: Sequence[str] | None = None,
) -> TrainState:
    """Trains connector and DiT, or adapters of them, or goes on where `workdir` stopped.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint.

    Args:
      config: everything about the run.
      workdir: gets config.json, metrics.jsonl, tensorboard/ and checkpoints/.
      batches: the data; which rows a step gets depends on its number alone.
      held_out: edits that are not trained on, for config.held_out.
      records: fingerprint of each data set of config.data.path, by which a run that goes on knows
        its data wherever it is; None: by its path alone.

    Returns:
      The last state. Its step is below config.training.steps if the run was stopped early.

    Raises:
      UserError: the config does not fit the devices, the run in `workdir` or the weights to start
        from; another process trains there; the loss is no longer finite; the disk is full.
    """
    workdir = epath.Path(user_path(os.fspath(workdir)))
    steps = config.training.steps

    # ---------------------------------------------------------------- config and devices
    config.validate()
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh, config.training.accumulate)
    for field in dataclasses.fields(config):
        print_once(f"{field.name}: {getattr(config, field.name)}")
    print_once(f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh {dict(mesh.shape)}")

    with contextlib.ExitStack() as to_the_end:
        check_can_save(folder_of(workdir))
        busy = f"another process trains in {workdir}; wait for it, or choose another --workdir."
        lock = exclusive(workdir / LOCK, busy)  # on the first process, for all
        on_first_process(functools.partial(to_the_end.enter_context, lock))
        to_the_end.enter_context(without_late_errors())
        checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        to_the_end.enter_context(contextlib.closing(checkpoints))
        to_the_end.enter_context(ending_without_peers())
        if (saved := checkpoints.describe_newest()) is not None:
            check_same_run(config, saved[0], workdir, records, saved[1])

        # ------------------------------------------------------------ what stays as it is
        # With adapters: the weights that training.start_from names, every time the run starts.
        frozen: nnx.State = nnx.State({})
        base = None
        if config.lora.rank:
            source = config.training.start_from
            print_once(f"Adapters of rank {config.lora.rank} on the weights of {source}.")
            base, keep = described(freezing(config, mesh))
            weights = open_start(config, print_once)
            frozen = load_parameters(weights, abstract_base(config, mesh), keep)

        # ------------------------------------------------------------ how the run starts
        # 1. This run has checkpoints: go on from the newest that is whole.
        # 2. training.start_from names weights of any form (weights/open.py): their parameters.
        # 3. Otherwise: random parameters.
        # With adapters, 2 is done: they start from lora.start_from or as nothing added.
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
            adapters = load_first_adapters(config, abstract.params, print_once)
            state = new_state(config, abstract, adapters)
        elif (source := config.training.start_from) and not config.lora.rank:  # 2
            print_once(f"Starting from the weights of {source}.")
            params = load_parameters(open_start(config, print_once), abstract.params)
            state = new_state(config, abstract, params)
        else:  # 3
            print_once(f"Starting from {'new adapters' if config.lora.rank else 'random weights'}.")
            state = new_state(config, abstract)

        decay = config.optimizer.ema_decay
        if evaluation is not None and decay:
            what = "adapters" if config.lora.rank else "parameters"
            print_once(
                f"Held-out edits are evaluated with the moving average of the {what}"
                f" (optimizer.ema_decay {decay})."
            )
        if config.training.profile_at > steps:
            print_once("training.profile_at is after the last step: nothing will be traced.")
        if jax.process_index() == 0:
            save_config(config, workdir / "config.json")

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
            stop_signal() as stop_asked,
        ):
            rows = check_width(next(data), config.model, config.data.path)
            batch = put(rows, mesh)
            for step in range(start + 1, steps + 1):
                before_step(step)
                examples, height, width, _ = size = batch["target"].shape
                if clock.is_new(size):
                    pixels = f"{width * PIXELS_PER_LATENT} x {height * PIXELS_PER_LATENT}"
                    metrics.say(f"compiling the step for {examples} pictures of {pixels} ...")
                # Batches go to the devices by `put`, numbers come by device_get. That anything else
                # moves, for which every step would wait, is a mistake in the code and an error.
                guard = jax.transfer_guard("disallow")
                with clock.step(size, flops((height, width), examples)), guard:
                    # this returns at once; while the devices work, the next batch is read and sent
                    state, values = train_step(state, batch, frozen)
                    done = rows
                    if step < steps:
                        with clock.reading():
                            rows = check_width(next(data), config.model, config.data.path)
                        batch = put(rows, mesh)
                    numbers = {name: float(x) for name, x in jax.device_get(values).items()}
                check_finite(numbers, step, done, workdir)
                metrics.advance(step)

                evaluate = evaluation is not None and step % config.held_out.every == 0
                if evaluation is not None and evaluate:
                    evaluated = state.params
                    if state.ema is not None:
                        evaluated = state.ema
                        numbers["held_out_ema_decay"] = decay  # the row itself says what it is of
                    numbers |= evaluation.loss(evaluated, frozen)
                    if picture := evaluation.show(evaluated, frozen, step):
                        metrics.say(f"step {step}: {picture}")
                if evaluate or step in (1, steps) or step % config.training.log_every == 0:
                    metrics.write(step, numbers | clock.row(peak))
                stop = stop_asked(step)
                if stop or step == steps or step % config.checkpoint.every == 0:
                    metrics.flush()
                    # in the background; the last one is waited for
                    checkpoints.save(state, config, base, records)
                if stop:
                    break
    return state


def print_once(text: str) -> None:
    """Prints on process 0 only."""
    if jax.process_index() == 0:
        print(text, flush=True)
