"""What a run trained, read for others: onto devices by Orbax, or as tensors of the official names.

A checkpoint has its parameters stacked over all blocks, and cut as its devices had them, where the
published layout wants one block after another. What is stored block by block is read as it is; the
rest is put together in raw files first: it is never in memory as a whole.
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
from step1x_jax.weights.filling import at
from step1x_jax.weights.layouts.official import by_parameter, model_table
from step1x_jax.weights.lora.adapters import Adapters, abstract_adapters
from step1x_jax.weights.published import Published
from step1x_jax.weights.readers import Rows, Shape
from step1x_jax.weights.run import earlier
from step1x_jax.weights.run.damage import DamagedError, damage, why_not_done
from step1x_jax.weights.run.description import Description, read_description
from step1x_jax.weights.run.fingerprints import About, AboutArray, add, fingerprint_of, same
from step1x_jax.weights.run.folder import folder_of, steps_in

# restoring.py and stored_arrays.py are imported where a run is read: they bring Orbax and
# tensorstore, a sixth of what all imports take, and every editor imports this file.
if TYPE_CHECKING:
    import tensorstore as ts

    from step1x_jax.weights.run.stored_arrays import Index

Result = TypeVar("Result")
Say = Callable[[str], None]


class RunFolder:
    """A run's newest whole checkpoint: parameters or adapters, or the moving average of them.

    Attributes:
      workdir: the run's folder.
      step: of the newest checkpoint that can be described.
      description: what that says of itself.
    """

    def __init__(self, workdir: epath.PathLike, *, ema: bool = False, say: Say = logging.warning):
        """Reads the description; no array.

        Args:
          workdir: the run's folder.
          ema: the moving average is wanted.
          say: prints a warning about a damaged checkpoint.

        Raises:
          UserError: no whole checkpoint, or one without an average.
        """
        self.workdir, self._ema, self._say = epath.Path(workdir), ema, say
        self.step, self.description = self.from_newest(
            lambda path, about, _: (int(path.name), about)
        )

    @property
    def model(self) -> ModelConfig:
        """Sizes and dtypes."""
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
    def arrays(self) -> About:
        """What is said of the arrays."""
        return self.description.arrays[self._item(self.description)]

    def restore(self, wanted: nnx.State) -> nnx.State:
        """The parameters, or adapters, each process its parts.

        Args:
          wanted: shapes, dtypes and shardings; what has none lies on one device.

        Raises:
          UserError: no whole checkpoint, or one of another model.
        """
        from step1x_jax.weights.run.restoring import load_state

        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = at(wanted, jax.tree.map(lambda x: x.sharding or one, wanted))
        return self.from_newest(lambda path, about, item: load_state(path, about, item, wanted))

    def check_adapters(self) -> None:
        """Raises UserError for a run of all parameters."""
        if not self.lora.rank:
            raise UserError(f"{self.workdir} trained all parameters: there are no adapters in it.")

    def adapters(self) -> Adapters:
        """The adapters of the run as a LoRA.

        Raises:
          UserError: the run has trained all parameters.
        """
        self.check_adapters()
        state = self.restore(abstract_adapters(self.model, self.lora))
        return Adapters(state, self.model, self.lora)

    def from_newest(self, read: Callable[[epath.Path, Description, str], Result]) -> Result:
        """What `read` makes of the newest checkpoint in which it finds no damage.

        Args:
          read: is given its folder, its description, and the name of the item that is wanted.

        Raises:
          UserError: there is none.
        """
        folder = folder_of(self.workdir)
        steps = steps_in(folder)
        for step in steps:
            path = folder / str(step)
            try:
                about = read_description(path)
                return read(path, about, self._item(about))
            except DamagedError as e:
                self._say(f"Checkpoint {path} is damaged ({e}); trying the one before it.")
        if steps:
            raise UserError(
                f"{folder} holds no whole checkpoint: all are damaged; give another run."
            )
        raise UserError(
            f"{folder} holds no whole checkpoint; is {self.workdir} the folder of a run?"
        )

    def _item(self, about: Description) -> str:
        if self._ema and "ema" not in about.arrays:
            raise UserError(
                f"{self.workdir} has no moving average, which a run has with optimizer.ema_decay;"
                " leave --ema out."
            )
        return "ema" if self._ema else about.trained


class RunTensors:
    """A run of all parameters as official tensors. Its arrays are checked before the first is read.

    Args:
      run: the run.
      room: a local folder with room for a copy of it; None: the system's for temporary files.
    """

    def __init__(self, run: RunFolder, room: epath.PathLike | None = None):
        self.run, self._room = run, os.fspath(room or tempfile.gettempdir())
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
        return {n: np.dtype(arrays[stored(e.parts[0].path)]["dtype"]) for n, e in table.items()}

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows.

        Raises:
          UserError: no whole checkpoint, or no room for a copy.
        """
        return self._published.read(name, rows)

    @functools.cached_property
    def _published(self) -> Published:
        return self.run.from_newest(self._opened)

    def _opened(self, path: epath.Path, about: Description, item: str) -> Published:
        saved, table = about.arrays[item], model_table(self.run.model)
        stored = _stored_names(about)
        parts = {name: sources[0][0] for name, sources in by_parameter(table).items()}
        stacked = {stored(name): part.layer is not None for name, part in parts.items()}
        _check_same_arrays(saved, stacked, path)
        arrays: dict[str, Any] = {}
        folder = _Folder(self._room, self.run.workdir)
        quiet = jax.process_index() > 0
        for name in tqdm(stacked, desc=f"checking {path}", unit="array", disable=quiet):
            room = folder if stacked[name] else None
            arrays[name] = _checked(path, item, name, saved[name], room)
        if not about.is_earlier:
            return Published(table, arrays)
        leaves = {}
        for name, part in parts.items():
            source = earlier.source_of(name)
            leaves[name] = _Earlier(arrays[source.name], source, part.shape)
        return Published(table, leaves)


def stored_parts(path: epath.Path, item: str, name: str) -> Iterator[tuple["Index", np.ndarray]]:
    """An array of a checkpoint in the blocks in which it is stored: those that its devices had.

    Orbax gives whole arrays only, so tensorstore, in which it stores them, is asked itself.

    Raises:
      DamagedError, UserError: see `damage`.
    """
    from step1x_jax.weights.run.stored_arrays import read_blocks, stored_array

    with damage(path, "its arrays cannot be read"):
        blocks = read_blocks(stored_array(path / item, name))
    while True:
        with damage(path, "its arrays cannot be read"):
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _checked(
    path: epath.Path, item: str, name: str, about: AboutArray, folder: "_Folder | None"
) -> Any:
    """A leaf for `Published`, after the array has been compared with its fingerprint.

    Args:
      path: of the checkpoint.
      item: of it.
      name: of the array.
      about: what is said of it.
      folder: where an array is put together that is stacked; None: it is read as a whole.
    """
    from step1x_jax.weights.run.stored_arrays import stored_array

    with damage(path, "its arrays cannot be read"):
        array = stored_array(path / item, name)
    shape, dtype = array.shape, array.dtype.numpy_dtype
    if (list(shape), dtype.name) != (about["shape"], about["dtype"]):
        raise DamagedError(f"{item}.{name} is {dtype.name}{list(shape)}")
    leaf: Any = _Stored(path, array)
    blocks: Any = array.chunk_layout.read_chunk.shape
    if folder is not None and blocks[0] > 1:
        leaf = _OnDisk(folder, name, shape, dtype)
    bits = [0, 0]
    for index, block in stored_parts(path, item, name):
        bits = add(bits, fingerprint_of(block, [part.start for part in index], shape))
        if isinstance(leaf, _OnDisk):
            leaf.put(index, block)
    if not same(about, {**about, "fingerprint": bits}):
        raise DamagedError(f"{item}.{name} does not match its fingerprint")
    return leaf


def _check_same_arrays(saved: About, parameters: Mapping[str, Any], path: epath.Path) -> None:
    """Raises DamagedError unless a description is of the arrays that its config has."""
    if saved.keys() != parameters.keys():
        raise DamagedError(f"{path} describes other arrays than its config has")


def _stored_names(about: Description) -> Callable[[str], str]:
    """From the name of one of our parameters to that of the array in which it is stored."""
    return (lambda name: earlier.source_of(name).name) if about.is_earlier else lambda name: name


class _Earlier:
    """One of our parameters in an array of an earlier schema; [layer] or [...] is read."""

    def __init__(self, array: Any, source: earlier.Origin, shape: tuple[int, ...]):
        self._array, self._source, self._shape, self.dtype = array, source, shape, array.dtype

    def __getitem__(self, layer: Any) -> np.ndarray:
        return self._source.take(np.asarray(self._array[layer]), self._shape)


class _Stored:
    """An array in a checkpoint, stored block by block; [layer] or [...] is read."""

    def __init__(self, path: epath.Path, array: "ts.TensorStore"):
        self._path, self._array, self.dtype = path, array, array.dtype.numpy_dtype

    def __getitem__(self, layer: Any) -> np.ndarray:
        try:  # alone: processes read other layers, so they cannot agree on what is damage
            return self._array[layer].read().result()
        except ValueError as e:
            raise UserError(
                f"{self._path} cannot be read any more ({why_not_done(str(e))}); check its rights,"
                " disk and network, and run the command again."
            ) from e


class _Folder:
    """A temporary folder, made for the first file and gone with the last."""

    def __init__(self, room: str, workdir: epath.Path):
        self._room, self._workdir = room, workdir

    @functools.cached_property
    def _path(self) -> epath.Path:
        epath.Path(self._room).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".run-", dir=self._room)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return epath.Path(folder)

    def path_of(self, name: str) -> epath.Path:
        """Of the file of this name."""
        return self._path / name

    def no_room(self, e: OSError) -> UserError:
        """What to say of an error of the system."""
        return UserError(
            f"no room for a copy of {self._workdir} in {self._room} ({e.strerror}); free some"
            " space, or name another folder for temporary files (TMPDIR)."
        )


class _OnDisk:
    """An array in a raw file, of which blocks are put, and [layer] or [...] is read."""

    def __init__(self, folder: _Folder, name: str, shape: Sequence[int], dtype: np.dtype):
        self._folder, self._shape, self.dtype = folder, tuple(shape), dtype
        try:
            self._path = folder.path_of(name)
            with self._path.open("wb") as f:
                f.truncate(math.prod(shape) * dtype.itemsize)
        except OSError as e:
            raise folder.no_room(e) from e

    def put(self, index: "Index", block: np.ndarray) -> None:
        """Puts a block in its place."""
        row = math.prod(self._shape[1:]) * self.dtype.itemsize
        try:
            if block.shape[1:] == self._shape[1:]:
                with open(self._path, "r+b") as f:  # epath has no such mode
                    f.seek(index[0].start * row)
                    f.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
                return
            for i, part in enumerate(block, start=index[0].start):  # one by one: mapped pages count
                mapped: np.ndarray = np.memmap(
                    self._path, self.dtype, "r+", offset=i * row, shape=self._shape[1:]
                )
                mapped[index[1:]] = part
        except OSError as e:
            raise self._folder.no_room(e) from e

    def __getitem__(self, layer: Any) -> np.ndarray:
        shape = self._shape if layer is ... else self._shape[1:]
        size = math.prod(shape) * self.dtype.itemsize
        with self._path.open("rb") as f:
            f.seek(0 if layer is ... else layer * size)
            return np.frombuffer(f.read(size), self.dtype).reshape(shape)
