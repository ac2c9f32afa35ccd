"""Checkpoints: state, step and config are saved together and restored together.

    WORKDIR/checkpoints/STEP/
        params/  optimizer/  [ema/]   arrays written by Orbax, named after the model's modules
        _CHECKPOINT_METADATA          Orbax's JSON. Our section holds the config and the shape,
                                      dtype and fingerprint of each array. A run of adapters adds
                                      those of its base, whose arrays are not in the checkpoint.

Orbax does not detect a flipped bit (it loads it) or a changed dtype (it casts). Names, shapes,
dtypes and fingerprints are therefore compared here. weights/run/damage.py defines damage.
"""

import contextlib
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from step1x_jax.errors import UserError
from step1x_jax.files import find, is_remote
from step1x_jax.json_files import as_json
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.config_file import from_json
from step1x_jax.training.failures.first_process import run_on_first_process
from step1x_jax.training.step.train_step import TrainState
from step1x_jax.weights.run.damage import DamagedError, write_failure_reason
from step1x_jax.weights.run.description import (
    WEIGHTS,
    CheckpointDescription,
    different_base,
    different_base_error,
    read_description,
)
from step1x_jax.weights.run.fingerprints import ArrayInfos, Arrays, describe_arrays, name_arrays
from step1x_jax.weights.run.folder import (
    any_set_aside,
    check_can_save,
    checkpoints_folder,
    list_steps,
    record_step,
    set_aside,
)
from step1x_jax.weights.run.restoring import load_items, unflatten_arrays
from step1x_jax.weights.run.stored_arrays import save_context


def _to_items(state: TrainState) -> dict[str, Arrays]:
    """Split the state into checkpoint items, so that parameters can be loaded alone."""
    items = {
        "params": name_arrays(state.params),
        "optimizer": {"step": state.step, **name_arrays(state.opt_state)},
    }
    if state.ema is not None:
        items["ema"] = name_arrays(state.ema)
    return items


class Checkpoints:
    """The checkpoints of one run. All processes must call every method in the same order.

    Args:
      workdir: the run's folder.
      keep: number of newest checkpoints to keep.

    Raises:
      UserError: checkpoints cannot be written to this folder.
    """

    def __init__(self, workdir: epath.PathLike, keep: int):
        self.folder = checkpoints_folder(workdir)
        check_can_save(self.folder)
        self._keep = keep
        self._failed = False
        self._opened: ocp.training.Checkpointer | None = None
        logging.getLogger("absl").addFilter(_is_not_orbax_traceback)

    def _checkpointer(
        self, say: Callable[[str], None] = logging.warning
    ) -> ocp.training.Checkpointer:
        """Open Orbax's checkpointer on first use: it reads every checkpoint, even damaged ones."""
        if self._opened is None:
            with self._explain_write_errors():
                try:
                    self._opened = self._open()
                except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
                    if isinstance(e, ValueError) and write_failure_reason(e):
                        raise
                    for step in self.steps:
                        self._set_aside_if_damaged(step, say)
                    self._opened = self._open()
        return self._opened

    def _open(self) -> ocp.training.Checkpointer:
        # Remove the files of an interrupted save. Orbax does this in the background, so they could
        # outlive the process. On an object store only Orbax can tell which files these are.
        remote = is_remote(self.folder)
        if not remote:
            self._remove_unfinished()
        return ocp.training.Checkpointer(
            self.folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),
            cleanup_tmp_directories=remote,
            context=save_context(),
        )

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for path in find(self.folder, "*.orbax-checkpoint-tmp*"):
                path.rmtree(missing_ok=True)

    def _set_aside_if_damaged(self, step: int, say: Callable[[str], None]) -> None:
        try:
            with contextlib.suppress(UserError):  # not damaged, and not needed here
                read_description(self.folder / str(step))
        except DamagedError as e:
            self._set_aside(step, e, say)

    def _set_aside(self, step: int, error: DamagedError, say: Callable[[str], None]) -> None:
        say(f"Checkpoint {step} is damaged ({error}) and set aside; the previous one is used.")
        run_on_first_process(functools.partial(set_aside, self.folder / str(step)))

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, newest first."""
        return list_steps(self.folder)

    def read_newest_config(self) -> tuple[TrainConfig, list[str] | None] | None:
        """Read the config and record fingerprints of the newest checkpoint.

        Checkpoints whose description is damaged are skipped.

        Returns:
          The config and the records that were given to `save`, or None without a checkpoint.

        Raises:
          UserError: the checkpoint holds only weights, its config was written by another version
            of this package, or it cannot be read at the moment.
        """
        for step in self.steps:
            path = self.folder / str(step)
            try:
                description = read_description(path)
            except DamagedError:
                continue  # `restore` reports it
            _check_is_run(description, path)
            config = from_json(dict(description.config), f"the config in {path}")
            return config, description.records
        return None

    def save(
        self,
        state: TrainState,
        config: TrainConfig,
        base: ArrayInfos | None = None,
        records: Sequence[str] | None = None,
    ) -> None:
        """Copy the state to the host and return; the files are written in the background.

        Args:
          state: the state to save.
          config: the run's config.
          base: for adapters, `describe` of the base weights.
          records: fingerprint of each data set of the run.

        Raises:
          UserError: this save or the previous one could not be written, e.g. the disk is full.
            Older checkpoints stay intact, and `close` removes the incomplete one.
        """
        items = _to_items(state)
        about = CheckpointDescription(
            as_json(config),
            {item: describe_arrays(arrays) for item, arrays in items.items()},
            base,
            None if records is None else list(records),
        )
        record_step(self.folder, "saved", int(state.step))
        with self._explain_write_errors():
            self._checkpointer().save_checkpointables_async(
                int(state.step), items, force=True, custom_metadata=about.to_json()
            )

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises the errors of `save`."""
        if self._opened is not None:
            with self._explain_write_errors():
                self._opened.wait()

    def close(self) -> None:
        """Wait for the last save and release Orbax's threads. Raises the errors of `save`."""
        if self._opened is None:
            return
        with self._explain_write_errors():
            try:
                self._opened.close()
            finally:
                if self._failed:
                    time.sleep(1)  # Orbax's other threads may still be writing
                    self._remove_unfinished()

    def restore(
        self, abstract: TrainState, say: Callable[[str], None], base: ArrayInfos | None = None
    ) -> TrainState | None:
        """Restore the newest intact checkpoint; None if the run has no checkpoint.

        A damaged checkpoint is reported and set aside (STEP is renamed to STEP.damaged; on an
        object store its last object is deleted). Then the previous one is tried.

        Args:
          abstract: expected shapes, dtypes and shardings of the state.
          say: prints a warning.
          base: see `save`.

        Raises:
          UserError: all checkpoints are damaged; they belong to another model or base; or one
            cannot be read for a reason other than damage, and is left unchanged.
        """
        for step in self.steps:
            path = self.folder / str(step)
            try:
                about = read_description(path)
                _check_is_run(about, path)
                if base is not None and (name := different_base(about, base)) is not None:
                    raise different_base_error(about, path, name)
                items = load_items(path, about, _to_items(abstract))
            except DamagedError as e:
                self._set_aside(step, e, say)
                continue
            self._checkpointer(say)  # removes the files of an interrupted save
            opt_state = unflatten_arrays(abstract.opt_state, items["optimizer"])
            ema = unflatten_arrays(abstract.ema, items["ema"]) if abstract.ema is not None else None
            params = unflatten_arrays(abstract.params, items["params"])
            return TrainState(items["optimizer"]["step"], params, opt_state, ema)
        if any_set_aside(self.folder):
            raise UserError(
                f"All checkpoints in {self.folder} are damaged; copy an intact one there, or start"
                " a new run in another --workdir."
            )
        self._checkpointer(say)
        return None

    @contextlib.contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        """Turn a failed write into a UserError that says what to do."""
        try:
            yield
        except (OSError, ValueError) as e:
            if (reason := write_failure_reason(e)) is None:
                raise
            self._failed = True
            full = "space" in reason or "quota" in reason
            here = re.search("denied|not permitted|[Rr]ead-only|[Nn]ot a directory|exists", reason)
            advice = "free space" if full else "check the disk or the network"
            advice += " and run the command again: it resumes from the last complete checkpoint"
            if here:
                advice = "make it writable or choose another --workdir"
            raise UserError(
                f"The checkpoint could not be written to {self.folder} ({reason}); {advice}."
            ) from e


def _check_is_run(about: CheckpointDescription, path: epath.Path) -> None:
    if WEIGHTS in about.arrays:
        raise UserError(
            f"{path} holds only weights, written by launch.convert, and no run to resume; give its"
            " folder as training.start_from and another one as --workdir."
        )


def _is_not_orbax_traceback(record: logging.LogRecord) -> bool:
    """Log filter: drop the traceback that Orbax prints per thread when a save fails.

    The error itself is raised in the caller's thread and becomes a UserError there.
    """
    return not (record.exc_info and "orbax" in record.pathname)
