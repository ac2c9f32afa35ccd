"""Checkpoints: state, step and config saved together, restored together or not at all.

    WORKDIR/checkpoints/STEP/
        params/  optimizer/  [ema/]   arrays by Orbax, under the names of the model's modules
        _CHECKPOINT_METADATA          JSON of Orbax; our part holds the config and, for each array,
                                      shape, dtype and fingerprint; of adapters, also for each array
                                      of the base, which is not in the checkpoint

Orbax notices neither a flipped bit (it loads silently) nor another dtype (it casts silently), so we
compare names, shapes, dtypes and fingerprints ourselves. What counts as damage: damage.py.
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
from step1x_jax.training.failures.first_process import on_first_process
from step1x_jax.training.step.train_step import TrainState
from step1x_jax.weights.run.damage import DamagedError, why_not_written
from step1x_jax.weights.run.description import (
    WEIGHTS,
    Description,
    different_base,
    other_base,
    read_description,
)
from step1x_jax.weights.run.fingerprints import About, Arrays, describe, name_arrays
from step1x_jax.weights.run.folder import (
    any_set_aside,
    check_can_save,
    folder_of,
    note,
    set_aside,
    steps_in,
)
from step1x_jax.weights.run.restoring import fill, load_items
from step1x_jax.weights.run.stored_arrays import storing


def _to_items(state: TrainState) -> dict[str, Arrays]:
    """The parts of a checkpoint, so that parameters can be loaded without the rest."""
    items = {
        "params": name_arrays(state.params),
        "optimizer": {"step": state.step, **name_arrays(state.opt_state)},
    }
    if state.ema is not None:
        items["ema"] = name_arrays(state.ema)
    return items


class Checkpoints:
    """The checkpoints of one run. All processes call every method, in the same order.

    Args:
      workdir: the run's folder.
      keep: how many of the newest to keep.

    Raises:
      UserError: checkpoints cannot be written there.
    """

    def __init__(self, workdir: epath.PathLike, keep: int):
        self.folder = folder_of(workdir)
        check_can_save(self.folder)
        self._keep = keep
        self._failed = False
        self._opened: ocp.training.Checkpointer | None = None
        logging.getLogger("absl").addFilter(_not_from_orbax)

    def _writer(self, say: Callable[[str], None] = logging.warning) -> ocp.training.Checkpointer:
        """Orbax's, opened when it is needed: it reads all checkpoints, damaged ones included."""
        if self._opened is None:
            with self._clear_errors():
                try:
                    self._opened = self._open()
                except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
                    if isinstance(e, ValueError) and why_not_written(e):
                        raise
                    for step in self.steps:
                        self._set_aside_if_damaged(step, say)
                    self._opened = self._open()
        return self._opened

    def _open(self) -> ocp.training.Checkpointer:
        # What an interrupted save left: Orbax removes it in the background, so that it may still be
        # there when the process ends. Only it knows what that is on an object store.
        remote = is_remote(self.folder)
        if not remote:
            self._remove_unfinished()
        return ocp.training.Checkpointer(
            self.folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),
            cleanup_tmp_directories=remote,
            context=storing(),
        )

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for path in find(self.folder, "*.orbax-checkpoint-tmp*"):
                path.rmtree(missing_ok=True)

    def _set_aside_if_damaged(self, step: int, say: Callable[[str], None]) -> None:
        try:
            with contextlib.suppress(UserError):  # no damage, and not needed now
                read_description(self.folder / str(step))
        except DamagedError as e:
            self._set_aside(step, e, say)

    def _set_aside(self, step: int, error: DamagedError, say: Callable[[str], None]) -> None:
        say(f"Checkpoint {step} is damaged ({error}) and set aside; the one before it counts.")
        on_first_process(functools.partial(set_aside, self.folder / str(step)))

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        return steps_in(self.folder)

    def describe_newest(self) -> tuple[TrainConfig, list[str] | None] | None:
        """Config and records of the newest checkpoint whose description can be read.

        Returns:
          These, as `save` was given them; None: there is no checkpoint.

        Raises:
          UserError: it holds weights alone; its config is of another version of this package; or it
            cannot be read for now.
        """
        for step in self.steps:
            path = self.folder / str(step)
            try:
                description = read_description(path)
            except DamagedError:
                continue  # `restore` says so
            _check_is_run(description, path)
            config = from_json(dict(description.config), f"the config in {path}")
            return config, description.records
        return None

    def save(
        self,
        state: TrainState,
        config: TrainConfig,
        base: About | None = None,
        records: Sequence[str] | None = None,
    ) -> None:
        """Copies the state to the host and returns; it is written in the background.

        Args:
          state: to save.
          config: of the run.
          base: of adapters, what `describe` says of the weights to which they belong.
          records: fingerprint of each data set that the run is trained on.

        Raises:
          UserError: this save, or the one before it, could not be written (a full disk). Older
            checkpoints are intact, and `close` removes what is half-written.
        """
        items = _to_items(state)
        about = Description(
            as_json(config),
            {item: describe(arrays) for item, arrays in items.items()},
            base,
            None if records is None else list(records),
        )
        note(self.folder, "saved", int(state.step))
        with self._clear_errors():
            self._writer().save_checkpointables_async(
                int(state.step), items, force=True, custom_metadata=about.to_json()
            )

    def wait(self) -> None:
        """Waits until the last save is on disk; raises what `save` raises."""
        if self._opened is not None:
            with self._clear_errors():
                self._opened.wait()

    def close(self) -> None:
        """Waits for the last save and releases Orbax's threads; raises what `save` raises."""
        if self._opened is None:
            return
        with self._clear_errors():
            try:
                self._opened.close()
            finally:
                if self._failed:
                    time.sleep(1)  # Orbax's other threads may still be writing
                    self._remove_unfinished()

    def restore(
        self, abstract: TrainState, say: Callable[[str], None], base: About | None = None
    ) -> TrainState | None:
        """The newest checkpoint that is whole, or None if there is none yet.

        A damaged one is reported and set aside (STEP becomes STEP.damaged; on an object store it
        loses its last object), and the one before it is tried.

        Args:
          abstract: the state wanted: shapes, dtypes and shardings.
          say: prints a warning.
          base: see `save`.

        Raises:
          UserError: checkpoints exist but all are damaged, or they are of another model or base; or
            one cannot be read for another reason than damage, and is left as it is.
        """
        for step in self.steps:
            path = self.folder / str(step)
            try:
                about = read_description(path)
                _check_is_run(about, path)
                if base is not None and (name := different_base(about, base)) is not None:
                    raise other_base(about, path, name)
                items = load_items(path, about, _to_items(abstract))
            except DamagedError as e:
                self._set_aside(step, e, say)
                continue
            self._writer(say)  # removes what an interrupted save left behind
            opt_state = fill(abstract.opt_state, items["optimizer"])
            ema = fill(abstract.ema, items["ema"]) if abstract.ema is not None else None
            params = fill(abstract.params, items["params"])
            return TrainState(items["optimizer"]["step"], params, opt_state, ema)
        if any_set_aside(self.folder):
            raise UserError(
                f"All checkpoints in {self.folder} are damaged; copy a whole one there, or start"
                " anew in another --workdir."
            )
        self._writer(say)
        return None

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turns a failed write into a sentence."""
        try:
            yield
        except (OSError, ValueError) as e:
            if (reason := why_not_written(e)) is None:
                raise
            self._failed = True
            full = "space" in reason or "quota" in reason
            here = re.search("denied|not permitted|[Rr]ead-only|[Nn]ot a directory|exists", reason)
            advice = "free space" if full else "check the disk or the network"
            advice += " and run the command again: it goes on from the last complete checkpoint"
            if here:
                advice = "make it writable or choose another --workdir"
            raise UserError(
                f"The checkpoint could not be written to {self.folder} ({reason}); {advice}."
            ) from e


def _check_is_run(about: Description, path: epath.Path) -> None:
    if WEIGHTS in about.arrays:
        raise UserError(
            f"{path} holds weights alone, of launch.convert, and no run to go on with; name its"
            " folder as training.start_from, and another as --workdir."
        )


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """A log filter: Orbax prints a failed save's traceback once per thread.

    The failure itself is raised to us and becomes one sentence.
    """
    return not (record.exc_info and "orbax" in record.pathname)
