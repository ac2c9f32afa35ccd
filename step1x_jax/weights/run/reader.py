"""Reads what a run trained: onto devices by Orbax, or as official tensors.

A checkpoint's parameters are stacked over all blocks and split as the devices had them, while the
official layout has one block after another. Arrays that are stored block by block are read
directly; others are first copied to raw files, so they are never in memory as a whole.
"""

import functools
import logging
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from etils import epath
from flax import nnx
from tqdm import tqdm

from step1x_jax.errors import UserError
from step1x_jax.models.config import LoraConfig, ModelConfig
from step1x_jax.weights.filling import set_shardings
from step1x_jax.weights.layouts.official import model_table, slices_by_parameter
from step1x_jax.weights.lora.adapters import Adapters, abstract_adapters
from step1x_jax.weights.official_tensors import OfficialTensors
from step1x_jax.weights.readers import RowIndices, Shape
from step1x_jax.weights.run import earlier
from step1x_jax.weights.run.damage import DamagedError, detect_damage, failure_reason
from step1x_jax.weights.run.description import CheckpointDescription, read_description
from step1x_jax.weights.run.fingerprints import (
    ArrayInfo,
    ArrayInfos,
    combine,
    fingerprint_of,
    matches,
)
from step1x_jax.weights.run.folder import checkpoints_folder, list_steps

# restoring.py and stored_arrays.py are imported inside functions: they import Orbax and
# tensorstore, a sixth of the time of all imports, and every editor imports this file.
if TYPE_CHECKING:
    import tensorstore as ts

    from step1x_jax.weights.run.stored_arrays import Index

Result = TypeVar("Result")
Say = Callable[[str], None]


class RunFolder:
    """A run's newest undamaged checkpoint: parameters or adapters, or their moving average.

    Attributes:
      workdir: the run's folder.
      step: of the newest checkpoint with a valid description.
      description: of that checkpoint.
    """

    def __init__(self, workdir: epath.PathLike, *, ema: bool = False, say: Say = logging.warning):
        """Read the description, but no array.

        Args:
          workdir: the run's folder.
          ema: reads the moving average.
          say: prints a warning about a damaged checkpoint.

        Raises:
          UserError: there is no undamaged checkpoint, or it has no average.
        """
        self.workdir, self._ema, self._say = epath.Path(workdir), ema, say
        self.step, self.description = self.read_newest(
            lambda path, description, _: (int(path.name), description)
        )

    @property
    def model(self) -> ModelConfig:
        """Sizes and dtypes of the model."""
        return self.description.model

    @property
    def lora(self) -> LoraConfig:
        """Settings of the adapters; rank 0: there are none."""
        return self.description.lora

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's config as JSON: sections of settings."""
        return self.description.config

    @property
    def arrays(self) -> ArrayInfos:
        """Descriptions of the arrays, by name."""
        return self.description.arrays[self._item(self.description)]

    def restore(self, wanted: nnx.State) -> nnx.State:
        """Load the parameters or adapters, each process its shards.

        Args:
          wanted: shapes, dtypes and shardings; without a sharding: one local device.

        Raises:
          UserError: there is no undamaged checkpoint, or it is of another model.
        """
        from step1x_jax.weights.run.restoring import load_state

        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = set_shardings(wanted, jax.tree.map(lambda x: x.sharding or one, wanted))
        return self.read_newest(
            lambda path, description, item: load_state(path, description, item, wanted)
        )

    def check_adapters(self) -> None:
        """Raise UserError if the run trained all parameters."""
        if not self.lora.rank:
            raise UserError(
                f"{self.workdir} trained all parameters, so it has no adapters; use it as a model."
            )

    def adapters(self) -> Adapters:
        """Load the run's adapters as a LoRA.

        Raises:
          UserError: the run trained all parameters.
        """
        self.check_adapters()
        state = self.restore(abstract_adapters(self.model, self.lora))
        return Adapters(state, self.model, self.lora)

    def read_newest(
        self, read: Callable[[epath.Path, CheckpointDescription, str], Result]
    ) -> Result:
        """Return the result of `read` for the newest checkpoint in which it finds no damage.

        Args:
          read: called with the checkpoint's folder, its description, and the name of the wanted
            item; raises DamagedError.

        Raises:
          UserError: there is none.
        """
        folder = checkpoints_folder(self.workdir)
        steps = list_steps(folder)
        for step in steps:
            path = folder / str(step)
            try:
                description = read_description(path)
                return read(path, description, self._item(description))
            except DamagedError as e:
                self._say(f"Checkpoint {path} is damaged ({e}); trying the one before it.")
        if steps:
            raise UserError(f"{folder} has no undamaged checkpoint; give another run.")
        raise UserError(
            f"{folder} has no complete checkpoint; check that {self.workdir} is the folder of a"
            " run."
        )

    def _item(self, description: CheckpointDescription) -> str:
        if self._ema and "ema" not in description.arrays:
            raise UserError(
                f"{self.workdir} has no moving average, which needs optimizer.ema_decay in"
                " training; leave --ema out."
            )
        return "ema" if self._ema else description.trained


class RunTensors:
    """A reader of a run of all parameters under the official names.

    The first read compares all arrays with their fingerprints.

    Args:
      run: the run.
      temp_dir: a local folder with space for a copy of it; None: the system's for temporary files.
    """

    def __init__(self, run: RunFolder, temp_dir: epath.PathLike | None = None):
        self.run, self._temp_dir = run, os.fspath(temp_dir or tempfile.gettempdir())
        self.metadata: Mapping[str, str] = {}

    @functools.cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of every official tensor."""
        return {name: entry.shape for name, entry in model_table(self.run.model).items()}

    @functools.cached_property
    def dtypes(self) -> Mapping[str, np.dtype]:
        """The dtype of every official tensor."""
        arrays, stored = self.run.arrays, _stored_names(self.run.description)
        table = model_table(self.run.model)
        return {n: np.dtype(arrays[stored(e.slices[0].path)]["dtype"]) for n, e in table.items()}

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows.

        Raises:
          UserError: there is no undamaged checkpoint, or no space for a copy.
        """
        return self._published.read(name, rows)

    @functools.cached_property
    def _published(self) -> OfficialTensors:
        return self.run.read_newest(self._open)

    def _open(
        self, path: epath.Path, description: CheckpointDescription, item: str
    ) -> OfficialTensors:
        saved, table = description.arrays[item], model_table(self.run.model)
        stored = _stored_names(description)
        parts = {name: sources[0][0] for name, sources in slices_by_parameter(table).items()}
        stacked = {stored(name): part.layer is not None for name, part in parts.items()}
        _check_same_arrays(saved, stacked, path)
        arrays: dict[str, Any] = {}
        folder = _TempFolder(self._temp_dir, self.run.workdir)
        quiet = jax.process_index() > 0
        for name in tqdm(stacked, desc=f"checking {path}", unit="array", disable=quiet):
            copy = folder if stacked[name] else None
            arrays[name] = _verify(path, item, name, saved[name], copy)
        if not description.is_earlier:
            return OfficialTensors(table, arrays)
        leaves = {}
        for name, part in parts.items():
            source = earlier.find_origin(name)
            leaves[name] = _EarlierArray(arrays[source.name], source, part.shape)
        return OfficialTensors(table, leaves)


def iter_stored_blocks(
    path: epath.Path, item: str, name: str
) -> Iterator[tuple["Index", np.ndarray]]:
    """Yield index and numbers of the blocks in which an array of a checkpoint is stored.

    The blocks are the shards of the devices that saved it. They are read by tensorstore, because
    Orbax reads only whole arrays.

    Raises:
      DamagedError, UserError: see `detect_damage`.
    """
    from step1x_jax.weights.run.stored_arrays import open_array, read_blocks

    with detect_damage(path, "its arrays cannot be read"):
        blocks = read_blocks(open_array(path / item, name))
    while True:
        with detect_damage(path, "its arrays cannot be read"):
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _verify(
    path: epath.Path, item: str, name: str, info: ArrayInfo, folder: "_TempFolder | None"
) -> Any:
    """Compare an array with its fingerprint, and return it as a leaf for `OfficialTensors`.

    Args:
      path: of the checkpoint.
      item: name of the item.
      name: of the array.
      info: its description.
      folder: for a stacked array that is not stored block by block: where it is copied to; None:
        the array is read as a whole.
    """
    from step1x_jax.weights.run.stored_arrays import open_array

    with detect_damage(path, "its arrays cannot be read"):
        array = open_array(path / item, name)
    shape, dtype = array.shape, array.dtype.numpy_dtype
    if (list(shape), dtype.name) != (info["shape"], info["dtype"]):
        raise DamagedError(f"{item}.{name} is {dtype.name}{list(shape)}")
    leaf: Any = _StoredArray(path, array)
    blocks: Any = array.chunk_layout.read_chunk.shape
    if folder is not None and blocks[0] > 1:
        leaf = _RawFile(folder, name, shape, dtype)
    fingerprint = [0, 0]
    for index, block in iter_stored_blocks(path, item, name):
        fingerprint = combine(
            fingerprint, fingerprint_of(block, [part.start for part in index], shape)
        )
        if isinstance(leaf, _RawFile):
            leaf.write(index, block)
    if not matches(info, {**info, "fingerprint": fingerprint}):
        raise DamagedError(f"{item}.{name} does not match its fingerprint")
    return leaf


def _check_same_arrays(saved: ArrayInfos, parameters: Mapping[str, Any], path: epath.Path) -> None:
    """Raise DamagedError unless a description has exactly the arrays of its config."""
    if saved.keys() != parameters.keys():
        raise DamagedError(f"{path} describes other arrays than its config has")


def _stored_names(description: CheckpointDescription) -> Callable[[str], str]:
    """Return a function from a parameter's name to the name of the stored array."""
    return (
        (lambda name: earlier.find_origin(name).name)
        if description.is_earlier
        else lambda name: name
    )


class _EarlierArray:
    """One of our parameters in an array of an earlier schema, read by [layer] or [...]."""

    def __init__(self, array: Any, source: earlier.Origin, shape: tuple[int, ...]):
        self._array, self._source, self._shape, self.dtype = array, source, shape, array.dtype

    def __getitem__(self, layer: Any) -> np.ndarray:
        return self._source.take(np.asarray(self._array[layer]), self._shape)


class _StoredArray:
    """An array in a checkpoint that is stored block by block, read by [layer] or [...]."""

    def __init__(self, path: epath.Path, array: "ts.TensorStore"):
        self._path, self._array, self.dtype = path, array, array.dtype.numpy_dtype

    def __getitem__(self, layer: Any) -> np.ndarray:
        try:  # not detect_damage: processes read different layers, so they cannot agree
            return self._array[layer].read().result()
        except ValueError as e:
            raise UserError(
                f"{self._path} cannot be read any more ({failure_reason(str(e))}); check"
                " permissions, disk and network, and run the command again."
            ) from e


class _TempFolder:
    """A temporary folder, created with the first file and removed with this object."""

    def __init__(self, temp_dir: str, workdir: epath.Path):
        self._temp_dir, self._workdir = temp_dir, workdir

    @functools.cached_property
    def _path(self) -> epath.Path:
        epath.Path(self._temp_dir).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".run-", dir=self._temp_dir)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return epath.Path(folder)

    def file_path(self, name: str) -> epath.Path:
        """Return the path of the file with this name."""
        return self._path / name

    def no_space_error(self, e: OSError) -> UserError:
        """Return the error for a system error."""
        return UserError(
            f"no space for a copy of {self._workdir} in {self._temp_dir} ({e.strerror}); free some"
            " space, or set another folder for temporary files (TMPDIR)."
        )


class _RawFile:
    """An array in a raw file: written by blocks, read by [layer] or [...]."""

    def __init__(self, folder: _TempFolder, name: str, shape: Sequence[int], dtype: np.dtype):
        self._folder, self._shape, self.dtype = folder, tuple(shape), dtype
        try:
            self._path = folder.file_path(name)
            with self._path.open("wb") as f:
                f.truncate(math.prod(shape) * dtype.itemsize)
        except OSError as e:
            raise folder.no_space_error(e) from e

    def write(self, index: "Index", block: np.ndarray) -> None:
        """Write a block."""
        row = math.prod(self._shape[1:]) * self.dtype.itemsize
        try:
            if block.shape[1:] == self._shape[1:]:
                with open(self._path, "r+b") as f:  # epath has no such mode
                    f.seek(index[0].start * row)
                    f.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
                return
            for i, part in enumerate(
                block, start=index[0].start
            ):  # one by one: mapped pages count as memory
                mapped: np.ndarray = np.memmap(
                    self._path, self.dtype, "r+", offset=i * row, shape=self._shape[1:]
                )
                mapped[index[1:]] = part
        except OSError as e:
            raise self._folder.no_space_error(e) from e

    def __getitem__(self, layer: Any) -> np.ndarray:
        shape = self._shape if layer is ... else self._shape[1:]
        size = math.prod(shape) * self.dtype.itemsize
        with self._path.open("rb") as f:
            f.seek(0 if layer is ... else layer * size)
            return np.frombuffer(f.read(size), self.dtype).reshape(shape)
