"""Checkpoints: state, step and config saved together, restored together or not at all.

    WORKDIR/checkpoints/STEP/
        params/  optimizer/  [ema/]   arrays by Orbax, under the names of the model's modules
        _CHECKPOINT_METADATA          JSON of Orbax; our part holds the config and, for each array,
                                      shape, dtype and fingerprint; of adapters, also for each array
                                      of the base, which is not in the checkpoint

Orbax notices neither a flipped bit (it loads silently) nor another dtype (it casts silently), so we
compare names, shapes, dtypes and fingerprints ourselves.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from step1x_jax.convert.adapters import load_adapters, merged_adapters
from step1x_jax.convert.filling import Keep, kept
from step1x_jax.convert.official import load_parameters
from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.training.checkpoint_folder import (
    COMMITTED,
    FOLDER,
    any_set_aside,
    check_listed,
    folder_of,
    note,
    set_aside,
    steps_in,
)
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.config_file import from_json, to_json
from step1x_jax.training.fingerprints import (
    About,
    Arrays,
    checksum,
    describe,
    fingerprint_of,
    name_arrays,
)
from step1x_jax.training.parts import abstract_parts, placed, shardings_of
from step1x_jax.training.step import TrainState
from step1x_jax.training.stored_arrays import Index, stored_array, stored_blocks, storing

Description = dict[str, About]  # by item
Result = TypeVar("Result")
DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's name for it
WEIGHTS = "state"  # the one item of a checkpoint that is weights alone, so named by Orbax
SCHEMA_VERSION = 2  # of the names; 1 had no "attn" in them


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


class _DamagedError(Exception):
    """A checkpoint that cannot be trusted."""


def why_not_written(e: OSError | ValueError) -> str | None:
    """The system's reason, which tensorstore puts into a ValueError; None: it is another error."""
    if isinstance(e, ValueError) and "os_error_code" not in str(e):
        return None
    reason = getattr(e, "strerror", None)
    return reason or str(e).split(" [os_error_code")[0].rsplit(": ", 1)[-1]


class Checkpoints:
    """The checkpoints of one run. All processes call every method, in the same order.

    Args:
      workdir: the run's folder.
      keep: how many of the newest to keep.
    """

    def __init__(self, workdir: epath.PathLike, keep: int):
        self.folder = folder_of(workdir)
        self._failed = False
        logging.getLogger("absl").addFilter(_not_from_orbax)
        with self._clear_errors():
            self._writer = ocp.training.Checkpointer(
                self.folder,
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),
                cleanup_tmp_directories=True,  # what an interrupted save left behind
                context=storing(),
            )

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        return steps_in(self.folder)

    def save(self, state: TrainState, config: TrainConfig, base: About | None = None) -> None:
        """Copies the state to the host and returns; it is written in the background.

        Args:
          state: to save.
          config: of the run.
          base: of adapters, what `describe` says of the weights to which they belong.

        Raises:
          UserError: this save, or the one before it, could not be written (a full disk). Older
            checkpoints are intact, and `close` removes what is half-written.
        """
        items = _to_items(state)
        about: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "config": to_json(config),
            "arrays": {item: describe(arrays) for item, arrays in items.items()},
        }
        if base is not None:
            about["base"] = base
        about["checksum"] = checksum(about)
        note(self.folder, "saved", int(state.step))
        with self._clear_errors():
            self._writer.save_checkpointables_async(
                int(state.step), items, force=True, custom_metadata=about
            )

    def wait(self) -> None:
        """Waits until the last save is on disk; raises what `save` raises."""
        with self._clear_errors():
            self._writer.wait()

    def close(self) -> None:
        """Waits for the last save and releases Orbax's threads; raises what `save` raises."""
        with self._clear_errors():
            try:
                self._writer.close()
            finally:
                if self._failed and jax.process_index() == 0:
                    time.sleep(1)  # Orbax's other threads may still be writing
                    for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
                        path.rmtree(missing_ok=True)

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
          UserError: checkpoints exist but all are damaged, or they are of another model or base.
        """
        for step in self.steps:
            try:
                path = self.folder / str(step)
                config, saved, saved_base = _read_description(path)
                if WEIGHTS in saved:
                    raise UserError(
                        f"{path} holds weights alone, of launch.convert, and no run to go on with;"
                        " name its folder as training.start_from, and another as --workdir."
                    )
                if base is not None:
                    check_same_base(saved_base, base, path, config)
                items = _load(path, saved, _to_items(abstract))
            except _DamagedError as e:
                say(f"Checkpoint {step} is damaged ({e}); trying the one before it.")
                if jax.process_index() == 0:
                    set_aside(path)
                _barrier("renamed_damaged_checkpoint")
                self._writer.reload()
                continue
            opt_state = _fill(abstract.opt_state, items["optimizer"])
            ema = _fill(abstract.ema, items["ema"]) if abstract.ema is not None else None
            params = _fill(abstract.params, items["params"])
            return TrainState(items["optimizer"]["step"], params, opt_state, ema)
        if any_set_aside(self.folder):
            raise UserError(
                f"All checkpoints in {self.folder} are damaged; delete it to start anew, or choose"
                " another --workdir."
            )
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
            advice = (
                "free space and run the command again: it goes on from the last complete checkpoint"
                if full
                else "make it writable or choose another --workdir"
            )
            raise UserError(
                f"The checkpoint could not be written to {self.folder} ({reason}); {advice}."
            ) from e


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
    _check_same_arrays(describe(name_arrays(adapters)), name_arrays(abstract), path)
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
            f" {source or 'it'} (any more); say where they are (--base=)."
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
        config, saved, base = _read_description(path)
        item = "ema" if ema else WEIGHTS if WEIGHTS in saved else "params"
        if item not in saved:
            raise UserError(f"{workdir} has no moving average: optimizer.ema_decay was 0.")
        wanted = abstract
        if wanted is None or config.lora.rank:
            wanted = _beside(abstract, abstract_parts(config).trained)
        there = _in_saved_dtypes(wanted, saved[item])
        items = _load(path, saved, {item: name_arrays(there)})
        trained = _fill(wanted, items[item])
        return jax.tree.map(lambda x, w: x.astype(w.dtype), trained, wanted), config, path, base

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
        config, saved, _ = _read_description(path)
        item = WEIGHTS if WEIGHTS in saved else "params"
        for name, about in saved[item].items():
            with _damage("its arrays cannot be read"):
                array = stored_array(path / item, name)
            if (array.shape, array.dtype.name) != (tuple(about["shape"]), about["dtype"]):
                raise _DamagedError(f"{item}.{name} is {array.dtype.name}{list(array.shape)}")
            bits = 0
            for index in stored_blocks(array):
                with _damage("its arrays cannot be read"):
                    block = array[index].read().result()
                bits += fingerprint_of(block)
                take(name, about, index, block)
            if bits % 2**32 != about["fingerprint"]:
                raise _DamagedError(f"{item}.{name} does not match its fingerprint")
        return config

    return _from_newest_whole(workdir, restore, say)


def describe_newest(
    workdir: epath.PathLike, *, say: Callable[[str], None] = logging.warning
) -> tuple[int, TrainConfig, About]:
    """Step, config and arrays of a run's newest checkpoint; none is loaded."""

    def read(path: epath.Path) -> tuple[int, TrainConfig, About]:
        config, saved, _ = _read_description(path)
        return int(path.name), config, saved[WEIGHTS if WEIGHTS in saved else "params"]

    return _from_newest_whole(workdir, read, say)


def _from_newest_whole(
    workdir: epath.PathLike, restore: Callable[[epath.Path], Result], say: Callable[[str], None]
) -> Result:
    """What `restore` makes of the newest checkpoint that it does not find damaged."""
    folder = folder_of(workdir)
    for step in steps_in(folder):
        path = folder / str(step)
        try:
            return restore(path)
        except _DamagedError as e:
            say(f"Checkpoint {path} is damaged ({e}); trying the one before it.")
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
    if (epath.Path(source) / FOLDER).is_dir():
        params = restore_params(source, abstract, say=say)[0]
        return params if keep is None else kept(params, keep)
    return load_parameters(source, config, shardings_of(abstract), keep)


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


def _read_description(path: epath.Path) -> tuple[TrainConfig, Description, About]:
    """The config of one checkpoint, and shape, dtype and fingerprint of its arrays and its base's.

    Raises:
      _DamagedError: they cannot be read or are not what was saved.
    """
    check_listed(path, COMMITTED)
    with _damage("its description cannot be read"):
        about = ocp.checkpointables_metadata(path).custom_metadata
        if about.pop("checksum") != checksum(about):
            raise ValueError("its checksum is wrong")
        version, saved = about.get("schema_version", 1), about["arrays"]
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by another version of step1x_jax (schema {version}, this one has"
            f" {SCHEMA_VERSION}); write it as .safetensors with that version's launch.convert, and"
            " start from that file (training.start_from)."
        )
    return from_json(about["config"], str(path)), saved, about.get("base", {})


def _load(path: epath.Path, saved: Description, wanted: dict[str, Arrays]) -> dict[str, Arrays]:
    """Loads and verifies items of one checkpoint.

    Args:
      path: WORKDIR/checkpoints/STEP.
      saved: see `_read_description`.
      wanted: the items as abstract arrays.

    Raises:
      _DamagedError: anything but what was saved.
      UserError: it is whole, but of another model.
    """
    for item, arrays in wanted.items():
        _check_same_arrays(saved.get(item, {}), arrays, path)
        check_listed(path / item, "_METADATA")
    with _damage("its arrays cannot be read"):
        loaded = ocp.load_checkpointables(path, wanted)
    for item, arrays in loaded.items():
        for name, found in describe(arrays).items():
            if found["fingerprint"] != saved[item][name]["fingerprint"]:
                raise _DamagedError(f"{item}.{name} does not match its fingerprint")
    return loaded


def check_same_base(saved: About, base: About, path: epath.Path, config: TrainConfig) -> None:
    """Compares the base of adapters with the one that they were trained on.

    Args:
      saved: what their checkpoint says of it.
      base: what is there now.
      path: of the checkpoint.
      config: of the run.

    Raises:
      UserError: they differ.
    """
    for name, array in base.items():
        if saved.get(name) != array:
            raise UserError(
                f"the adapters in {path} were trained on other weights: {name} differs; give those"
                f" that were in {config.training.start_from} then."
            )


def _check_same_arrays(saved: dict[str, dict[str, Any]], wanted: Arrays, path: epath.Path) -> None:
    """Raises UserError naming the first array in which checkpoint and model differ."""

    def summary(shape: Any, dtype: Any) -> str:
        return f"{dtype}{list(shape)}"

    for name, x in wanted.items():
        here = summary(x.shape, x.dtype)
        there = summary(saved[name]["shape"], saved[name]["dtype"]) if name in saved else "missing"
        if here != there:
            raise UserError(
                f"{path} is of another model: {name} is {there} there and {here} in this config;"
                " use the config that the checkpoint was made with."
            )
    for name in saved:
        if name not in wanted:
            raise UserError(
                f"{path} is of another model: its {name} does not exist in this config; use the"
                " config that the checkpoint was made with."
            )


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Any failure inside is damage, on all processes if on one."""
    error: Exception | None = None
    try:
        yield
    except Exception as e:  # Orbax, tensorstore and JSON each have their own
        error = e
    if jax.process_count() > 1:
        failures = multihost_utils.process_allgather(np.array(error is not None))
        if error is None and failures.any():
            error = RuntimeError("on another process")
    if error is not None:
        raise _DamagedError(f"{what}: {error!r}".split("\n")[0][:200]) from error


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """A log filter: Orbax prints a failed save's traceback once per thread.

    The failure itself is raised to us and becomes one sentence.
    """
    return not (record.exc_info and "orbax" in record.pathname)
