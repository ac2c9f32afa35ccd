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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from orbax.checkpoint import v1 as ocp

from step1x_jax.errors import UserError
from step1x_jax.files import find, is_remote
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.first_process import on_first_process
from step1x_jax.training.parts import abstract_parts, placed, shardings_of
from step1x_jax.training.step import TrainState
from step1x_jax.weights.config_json import model_from_json, read_config_json, to_json
from step1x_jax.weights.filling import Keep, kept
from step1x_jax.weights.load import MODEL_NAMES, find_weights, load_parameters
from step1x_jax.weights.lora.adapters import load_adapters, merged_adapters
from step1x_jax.weights.run.damage import STATUSES, DamagedError, damage, why_not_done
from step1x_jax.weights.run.description import (
    WEIGHTS,
    Description,
    check_same_arrays,
    check_same_base,
    read_description,
)
from step1x_jax.weights.run.fingerprints import (
    About,
    Arrays,
    add,
    describe,
    fingerprint_of,
    name_arrays,
    same,
)
from step1x_jax.weights.run.folder import (
    FOLDER,
    any_set_aside,
    check_can_save,
    check_listed,
    folder_of,
    note,
    set_aside,
    steps_in,
)
from step1x_jax.weights.run.stored_arrays import Index, stored_array, stored_blocks, storing

Result = TypeVar("Result")


def _to_items(state: TrainState) -> dict[str, Arrays]:
    """The parts of a checkpoint, so that parameters can be loaded without the rest."""
    items = {
        "params": name_arrays(state.params),
        "optimizer": {"step": state.step, **name_arrays(state.opt_state)},
    }
    if state.ema is not None:
        items["ema"] = name_arrays(state.ema)
    return items


def _fill(tree: Any, arrays: Arrays) -> Any:
    """The inverse of name_arrays: the tree with its arrays replaced by those of their names."""
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[n] for n in name_arrays(tree)])


def why_not_written(e: OSError | ValueError) -> str | None:
    """The system's reason, which tensorstore puts into a ValueError; None: it is another error."""
    if isinstance(e, OSError):
        return e.strerror or why_not_done(str(e))
    from_store = "os_error_code" in str(e) or str(e).startswith(STATUSES)
    return why_not_done(str(e)) if from_store else None


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

    def describe_newest(self) -> Description | None:
        """What the newest checkpoint that has a readable description says; None: there is none.

        Raises:
          UserError: it holds weights alone; or it cannot be read for now.
        """
        for step in self.steps:
            path = self.folder / str(step)
            try:
                description = read_description(path)
            except DamagedError:
                continue  # `restore` says so
            _check_is_run(description, path)
            return description
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
            config,
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
                if base is not None:
                    check_same_base(about.base or {}, base, path, about.config)
                items = _load(path, about.arrays, _to_items(abstract))
            except DamagedError as e:
                self._set_aside(step, e, say)
                continue
            self._writer(say)  # removes what an interrupted save left behind
            opt_state = _fill(abstract.opt_state, items["optimizer"])
            ema = _fill(abstract.ema, items["ema"]) if abstract.ema is not None else None
            params = _fill(abstract.params, items["params"])
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


def restore_params(
    workdir: epath.PathLike,
    abstract: nnx.State | None = None,
    *,
    ema: bool = False,
    base: str = "",
    say: Callable[[str], None] = logging.warning,
) -> tuple[nnx.State, TrainConfig]:
    """Loads the parameters of a run's newest whole checkpoint, for sampling or fine-tuning.

    Those of a run of adapters are its base's, loaded from where the run found them, with the
    adapters merged into them.

    Args:
      workdir: the run's folder.
      abstract: the parameters wanted: shapes, dtypes and shardings; default those of the run, on
        one device.
      ema: take the moving average instead of the raw parameters.
      base: where the base of adapters lies now, if it has moved.
      say: prints a warning about a damaged checkpoint.

    Returns:
      Parameters for nnx.merge and the run's config.

    Raises:
      UserError: no whole checkpoint, one of another model, or no moving average in it; the base is
        not where it was, or another than the one that the adapters were trained on.
    """
    trained, config, path, saved_base = restore_trained(workdir, abstract, ema=ema, say=say)
    if not config.lora.rank:
        return trained, config
    wanted = _beside(None, abstract_model(config.model)[1]) if abstract is None else abstract
    as_trained = _in_dtype(wanted, config.model.param_dtype)
    source = find_base(workdir, config, base)
    params = load_weights(source, config.model, as_trained, say=say)
    if saved_base:  # a LoRA of others does not say what it was trained on
        check_same_base(saved_base, describe(name_arrays(params)), path, config)
    # in the dtype that is wanted, where it is the wider one: sums are rounded once
    params = jax.tree.map(
        lambda x, w: x.astype(jnp.promote_types(x.dtype, w.dtype)), params, wanted
    )
    merged = merged_adapters(config.model, config.lora, params, trained)
    return jax.tree.map(lambda x, w: x.astype(w.dtype), merged, wanted), config


def restore_adapters(
    workdir: epath.PathLike,
    *,
    ema: bool = False,
    say: Callable[[str], None] = logging.warning,
) -> tuple[nnx.State, TrainConfig]:
    """Loads the adapters alone of a run's newest whole checkpoint; else as `restore_params`."""
    trained, config, _, _ = restore_trained(workdir, ema=ema, say=say)
    _check_adapters(workdir, config)
    return trained, config


def _check_adapters(workdir: epath.PathLike, config: TrainConfig) -> None:
    """Raises UserError for a run of all parameters."""
    if not config.lora.rank:
        raise UserError(f"{workdir} trained all parameters: there are no adapters in it.")


def load_first_adapters(
    source: str,
    config: TrainConfig,
    abstract: nnx.State,
    *,
    say: Callable[[str], None] = logging.warning,
) -> nnx.State:
    """The adapters that a run starts from (lora.start_from).

    Args:
      source: the folder of a run of adapters, or a LoRA file or folder.
      config: of the run.
      abstract: the adapters wanted: shapes, dtypes and shardings.
      say: prints a warning about a damaged checkpoint.

    Raises:
      UserError: they are of another model, or of other settings than config.lora.
    """
    if not (epath.Path(source) / FOLDER).is_dir():
        return load_adapters(source, abstract, config.model, config.lora, shardings_of(abstract))
    adapters, saved, path, _ = restore_trained(source, abstract, say=say)
    _check_adapters(source, saved)
    for field in ("rank", "alpha"):
        there, here = getattr(saved.lora, field), getattr(config.lora, field)
        if there != here:
            raise UserError(
                f"the adapters in {source} have {field} {there:g}, the config {here:g}; set"
                f" lora.{field} to it."
            )
    check_same_arrays(describe(name_arrays(adapters)), name_arrays(abstract), path)
    return _fill(abstract, name_arrays(adapters))


def find_base(workdir: epath.PathLike, config: TrainConfig, base: str = "") -> str:
    """Where the weights lie to which a run's adapters belong: `base`, or where the run found them.

    Raises:
      UserError: there is nothing.
    """
    source = base or config.training.start_from
    if not source or not epath.Path(source).exists():
        raise UserError(
            f"{workdir} holds adapters, and the weights to which they belong are not in"
            f" {source or 'it'} (any more); say where they are (--base= of launch.edit and of"
            " launch.convert, which makes a file of both to train on)."
        )
    return source


def restore_trained(
    workdir: epath.PathLike,
    abstract: nnx.State | None = None,
    *,
    ema: bool = False,
    say: Callable[[str], None] = logging.warning,
) -> tuple[nnx.State, TrainConfig, epath.Path, About]:
    """What the newest whole checkpoint holds: parameters, or adapters on the same devices.

    Returns:
      These, the config, the checkpoint's folder, and the description of the adapters' base.
    """

    def restore(path: epath.Path) -> tuple[nnx.State, TrainConfig, epath.Path, About]:
        about = read_description(path)
        config, saved = about.config, about.arrays
        item = "ema" if ema else about.trained
        if item not in saved:
            raise UserError(f"{workdir} has no moving average: optimizer.ema_decay was 0.")
        wanted = abstract
        if wanted is None or config.lora.rank:
            wanted = _beside(abstract, abstract_parts(config).trained)
        there = _in_saved_dtypes(wanted, saved[item])
        items = _load(path, saved, {item: name_arrays(there)})
        trained = _fill(wanted, items[item])
        trained = jax.tree.map(lambda x, w: x.astype(w.dtype), trained, wanted)
        return trained, config, path, about.base or {}

    return _from_newest_whole(workdir, restore, say)


def restore_each(
    workdir: epath.PathLike,
    take: Callable[[str, Mapping[str, Any], Index, np.ndarray], None],
    *,
    say: Callable[[str], None] = logging.warning,
) -> TrainConfig:
    """Loads what a run trained, in the blocks in which it is stored: those that its devices had.

    Orbax gives whole arrays only, so tensorstore, in which it stores them, is asked itself.

    Args:
      workdir: the run's folder.
      take: gets an array's name, shape and dtype (see `describe`), and a block with its place;
        after damage, once more from the first array on.
      say: prints a warning about a damaged checkpoint.

    Raises:
      UserError: no whole checkpoint.
    """

    def restore(path: epath.Path) -> TrainConfig:
        about = read_description(path)
        item, config = about.trained, about.config
        _check_same_names(about.arrays[item], name_arrays(abstract_parts(config).trained), path)
        for name, saved in about.arrays[item].items():
            with damage(path, "its arrays cannot be read"):
                array = stored_array(path / item, name)
            if (list(array.shape), array.dtype.name) != (saved["shape"], saved["dtype"]):
                raise DamagedError(f"{item}.{name} is {array.dtype.name}{list(array.shape)}")
            found = saved | {"fingerprint": [0, 0]}
            for index in stored_blocks(array):
                with damage(path, "its arrays cannot be read"):
                    block = array[index].read().result()
                start = [part.start for part in index]
                bits = fingerprint_of(block, start, array.shape)
                found["fingerprint"] = add(found["fingerprint"], bits)
                take(name, saved, index, block)
            if not same(saved, found):
                raise DamagedError(f"{item}.{name} does not match its fingerprint")
        return config

    return _from_newest_whole(workdir, restore, say)


def describe_newest(
    workdir: epath.PathLike, *, say: Callable[[str], None] = logging.warning
) -> tuple[int, TrainConfig, About]:
    """Step, config and arrays of a run's newest checkpoint; none is loaded."""

    def read(path: epath.Path) -> tuple[int, TrainConfig, About]:
        about = read_description(path)
        return int(path.name), about.config, about.arrays[about.trained]

    return _from_newest_whole(workdir, read, say)


def _from_newest_whole(
    workdir: epath.PathLike, restore: Callable[[epath.Path], Result], say: Callable[[str], None]
) -> Result:
    """What `restore` makes of the newest checkpoint that it does not find damaged."""
    folder = folder_of(workdir)
    steps = steps_in(folder)
    for step in steps:
        path = folder / str(step)
        try:
            return restore(path)
        except DamagedError as e:
            say(f"Checkpoint {path} is damaged ({e}); trying the one before it.")
    if steps:
        raise UserError(f"{folder} holds no whole checkpoint: all are damaged; give another run.")
    raise UserError(f"{folder} holds no whole checkpoint; is {workdir} the folder of a run?")


def load_weights(
    source: str,
    config: ModelConfig,
    abstract: nnx.State,
    *,
    say: Callable[[str], None] = logging.warning,
    keep: Keep | None = None,
) -> nnx.State:
    """The parameters to start from: of another run, or of a released file.

    Args:
      source: a run's folder, or a .safetensors file or a folder with one.
      config: of the model.
      abstract: the parameters wanted: shapes, dtypes and shardings.
      say: prints a warning about a damaged checkpoint.
      keep: is given one parameter after another (of a file before the next one is read), and says
        what is kept of it; None keeps it as it is.

    Raises:
      UserError: there are none, or they are of another model.
    """
    try:
        if (epath.Path(source) / FOLDER).is_dir():
            params = restore_params(source, abstract, say=say)[0]
            return params if keep is None else kept(params, keep)
        return load_parameters(source, config, shardings_of(abstract), keep)
    except UserError as e:
        if other := _other_sizes(source, config):
            raise UserError(
                f"{str(e).split(';')[0]}; the sizes there are {other}: set these in the config, or"
                " take one that has them (configs/quickstart.py for the model that ships)."
            ) from e
        raise


def _other_sizes(source: str, config: ModelConfig) -> str:
    """The sizes in which weights differ from a config, in words, if they have other shapes."""
    try:
        if (epath.Path(source) / FOLDER).is_dir():
            theirs = describe_newest(source, say=lambda text: None)[1].model
        else:
            folder = find_weights(source, MODEL_NAMES).parent
            values = read_config_json(folder, "dit")
            theirs = model_from_json(values, str(folder)) if values else config
    except UserError:  # the first one tells
        return ""
    shapes = [jax.tree.map(lambda x: x.shape, abstract_model(one)[1]) for one in (theirs, config)]
    if shapes[0] == shapes[1]:
        return ""
    sizes = [to_json(one) for one in (theirs, config)]
    return ", ".join(
        f"model.{name}={value} (here {sizes[1].get(name)})"
        for name, value in sizes[0].items()
        if value != sizes[1].get(name)
    )


def _in_dtype(abstract: nnx.State, dtype: str) -> nnx.State:
    def change(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype), sharding=x.sharding)

    return jax.tree.map(change, abstract)


def _in_saved_dtypes(abstract: nnx.State, saved: About) -> nnx.State:
    """Abstract parameters in the dtypes of a checkpoint: float32 may start what is bfloat16."""
    arrays = {
        name: jax.ShapeDtypeStruct(
            x.shape, jnp.dtype(saved[name]["dtype"]) if name in saved else x.dtype,
            sharding=x.sharding,
        )
        for name, x in name_arrays(abstract).items()
    }  # fmt: skip
    return _fill(abstract, arrays)


def _beside(others: nnx.State | None, abstract: nnx.State) -> nnx.State:
    """Abstract parameters with places: on the mesh of others, or on one device."""
    place = None if others is None else jax.tree.leaves(others)[0].sharding
    if isinstance(place, jax.sharding.NamedSharding):
        return placed(abstract, jax.tree.leaves(others)[0].sharding.mesh)
    place = place or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract)


def _load(
    path: epath.Path, saved: Mapping[str, About], wanted: dict[str, Arrays]
) -> dict[str, Arrays]:
    """Loads and verifies items of one checkpoint.

    Args:
      path: WORKDIR/checkpoints/STEP.
      saved: what its description says of each item's arrays.
      wanted: the items as abstract arrays.

    Raises:
      DamagedError: anything but what was saved.
      UserError: it is whole, but of another model; or it cannot be read for now.
    """
    for item, arrays in wanted.items():
        check_same_arrays(saved.get(item, {}), arrays, path)
        check_listed(path / item, "_METADATA")
    with damage(path, "its arrays cannot be read"):
        loaded = ocp.load_checkpointables(path, wanted)
    for item, arrays in loaded.items():
        for name, found in describe(arrays).items():
            if not same(saved[item][name], found):
                raise DamagedError(f"{item}.{name} does not match its fingerprint")
    return loaded


def _check_same_names(saved: About, wanted: Arrays, path: epath.Path) -> None:
    """Raises DamagedError unless a description is of the arrays that its config has."""
    shapes = {name: list(x.shape) for name, x in wanted.items()}
    if {name: one["shape"] for name, one in saved.items()} != shapes:
        raise DamagedError(f"{path} describes other arrays than its config has")


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """A log filter: Orbax prints a failed save's traceback once per thread.

    The failure itself is raised to us and becomes one sentence.
    """
    return not (record.exc_info and "orbax" in record.pathname)
