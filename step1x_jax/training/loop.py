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
from step1x_jax.parallel.devices import get_peak_flops
from step1x_jax.parallel.mesh import check_batch_size, make_mesh
from step1x_jax.training.batches import check_text_width, to_global_arrays
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.checkpoint.late_errors import suppress_late_errors
from step1x_jax.training.config import TrainConfig, check_same_run
from step1x_jax.training.config_file import save_config
from step1x_jax.training.failures.first_process import run_on_first_process
from step1x_jax.training.failures.lost_peer import exit_on_lost_peer
from step1x_jax.training.failures.not_finite import check_finite
from step1x_jax.training.failures.stop_signal import watch_stop_signals
from step1x_jax.training.monitoring.clock import Clock
from step1x_jax.training.monitoring.flops import step_flops
from step1x_jax.training.monitoring.held_out import HeldOutBatches, HeldOutEvaluator
from step1x_jax.training.monitoring.metrics import MetricsWriter
from step1x_jax.training.monitoring.profile import profiler
from step1x_jax.training.starting import load_first_adapters, open_start_weights
from step1x_jax.training.step.train_step import (
    TrainState,
    abstract_state,
    init_state,
    make_train_step,
)
from step1x_jax.training.trainable_split import abstract_base, make_freezer
from step1x_jax.weights.load import load_parameters
from step1x_jax.weights.run.fingerprints import make_fingerprinter
from step1x_jax.weights.run.folder import check_can_save, checkpoints_folder

# From the number of completed steps to an iterator over the following host batches (batches.py).
Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]
LOCK = ".lock"  # file in the run's folder while a process trains there


def train(
    config: TrainConfig,
    workdir: epath.PathLike,
    batches: Batches,
    held_out: HeldOutBatches | None = None,
    records: Sequence[str] | None = None,
) -> TrainState:
    """Train connector and transformer, or adapters for them; resume the run in `workdir` if any.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint.

    Args:
      config: the run's config.
      workdir: the run's folder, for config.json, metrics.jsonl, tensorboard/ and checkpoints/.
      batches: the training data. The rows of a step must depend on the step's number only.
      held_out: edits that are not trained on, evaluated as config.held_out says.
      records: fingerprint of each data set of config.data.path. A resumed run identifies its data
        by them; with None, by the path.

    Returns:
      The last state. Its step is below config.training.steps if the run was stopped early.

    Raises:
      UserError: the config does not fit the devices, the run in `workdir` or the initial weights;
        another process trains in `workdir`; the loss is not finite; or the disk is full.
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

    with contextlib.ExitStack() as stack:
        check_can_save(checkpoints_folder(workdir))
        busy = f"another process trains in {workdir}; wait for it, or choose another --workdir."
        lock = exclusive(workdir / LOCK, busy)  # process 0 locks for all
        run_on_first_process(functools.partial(stack.enter_context, lock))
        stack.enter_context(suppress_late_errors())
        checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        stack.enter_context(contextlib.closing(checkpoints))
        stack.enter_context(exit_on_lost_peer())
        if (saved := checkpoints.read_newest_config()) is not None:
            check_same_run(config, saved[0], workdir, records, saved[1])

        # ------------------------------------------------------------ the frozen base
        # With adapters, training.start_from is loaded every time the run starts.
        frozen: nnx.State = nnx.State({})
        base = None
        if config.lora.rank:
            source = config.training.start_from
            print_once(f"Adapters of rank {config.lora.rank} on the weights of {source}.")
            base, keep = make_fingerprinter(make_freezer(config, mesh))
            weights = open_start_weights(config, print_once)
            frozen = load_parameters(weights, abstract_base(config, mesh), keep)

        # ------------------------------------------------------------ the initial state
        # 1. The run has checkpoints: resume from the newest intact one.
        # 2. training.start_from names weights in any format (weights/open.py): load them.
        # 3. Otherwise: initialize at random.
        # With adapters, start_from was loaded above as the base. The adapters start from
        # lora.start_from, or at random with a zero product (the model equals its base).
        abstract = abstract_state(config, mesh)
        state = checkpoints.restore(abstract, print_once, base)
        start = 0 if state is None else int(state.step)
        if start > steps:
            raise UserError(
                f"{workdir} has done {start} steps, more than training.steps={steps}; set that to"
                f" {start} or more, or choose another --workdir."
            )
        if state is not None and start == steps:
            print_once(f"All {steps} steps in {workdir} are done.")
            return state

        # Open the data now: it may be missing, and loading weights takes time.
        data = batches(start)
        evaluation = HeldOutEvaluator(config, mesh, held_out, workdir) if held_out else None
        if state is not None:  # 1
            print_once(f"Resuming from step {start} of {steps} in {workdir}.")
        elif source := config.lora.start_from:
            print_once(f"Starting from the adapters of {source}.")
            adapters = load_first_adapters(config, abstract.params, print_once)
            state = init_state(config, abstract, adapters)
        elif (source := config.training.start_from) and not config.lora.rank:  # 2
            print_once(f"Starting from the weights of {source}.")
            params = load_parameters(open_start_weights(config, print_once), abstract.params)
            state = init_state(config, abstract, params)
        else:  # 3
            print_once(f"Starting from {'new adapters' if config.lora.rank else 'random weights'}.")
            state = init_state(config, abstract)

        decay = config.optimizer.ema_decay
        if evaluation is not None and decay:
            what = "adapters" if config.lora.rank else "parameters"
            print_once(
                f"Held-out edits are evaluated with the moving average of the {what}"
                f" (optimizer.ema_decay {decay})."
            )
        if config.training.profile_at > steps:
            print_once("training.profile_at is after the last step: no step will be traced.")
        if jax.process_index() == 0:
            save_config(config, workdir / "config.json")

        # ------------------------------------------------------------ the loop
        metrics, clock = MetricsWriter(workdir, start, steps), Clock()
        train_step = make_train_step(config, mesh, abstract)
        # Tracing the model to count its FLOPs takes time: do it once per batch shape.
        flops = functools.cache(functools.partial(step_flops, config))
        peak = get_peak_flops(mesh.devices.flat[0])
        with (
            jax.set_mesh(mesh),
            contextlib.closing(metrics),
            profiler(config.training.profile_at, workdir) as before_step,
            watch_stop_signals() as stop_asked,
        ):
            rows = check_text_width(next(data), config.model, config.data.path)
            batch = to_global_arrays(rows, mesh)
            for step in range(start + 1, steps + 1):
                before_step(step)
                examples, height, width, _ = size = batch["target"].shape
                if clock.is_new(size):
                    pixels = f"{width * PIXELS_PER_LATENT} x {height * PIXELS_PER_LATENT}"
                    metrics.print_line(
                        f"compiling the step for {examples} pictures of {pixels} ..."
                    )
                # `to_global_arrays` moves batches to the devices, and device_get moves metrics to
                # the host. The guard makes any other transfer an error, since every step would
                # wait for it.
                guard = jax.transfer_guard("disallow")
                with clock.measure_step(size, flops((height, width), examples)), guard:
                    # This call returns immediately. The next batch is read and sent meanwhile.
                    state, values = train_step(state, batch, frozen)
                    trained_rows = rows
                    if step < steps:
                        with clock.measure_data():
                            rows = check_text_width(next(data), config.model, config.data.path)
                        batch = to_global_arrays(rows, mesh)
                    numbers = {name: float(x) for name, x in jax.device_get(values).items()}
                check_finite(numbers, step, trained_rows, workdir)
                metrics.advance(step)

                evaluate = evaluation is not None and step % config.held_out.every == 0
                if evaluation is not None and evaluate:
                    evaluated = state.params
                    if state.ema is not None:
                        evaluated = state.ema
                        numbers["held_out_ema_decay"] = decay  # marks the row as the average's
                    numbers |= evaluation.compute_losses(evaluated, frozen)
                    if picture := evaluation.write_picture(evaluated, frozen, step):
                        metrics.print_line(f"step {step}: {picture}")
                if evaluate or step in (1, steps) or step % config.training.log_every == 0:
                    metrics.write(step, numbers | clock.take_row(peak))
                stop = stop_asked(step)
                if stop or step == steps or step % config.checkpoint.every == 0:
                    metrics.flush()
                    # Written in the background; `stack` waits for the last one.
                    checkpoints.save(state, config, base, records)
                if stop:
                    break
    return state


def print_once(text: str) -> None:
    """Print on process 0 only."""
    if jax.process_index() == 0:
        print(text, flush=True)
