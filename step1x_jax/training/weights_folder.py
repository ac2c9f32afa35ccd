"""Weights alone as a run's folder, to start training from (training.start_from) or to sample from,
and a run's parameters as tensors under the official names. Neither ever holds the whole model.
"""

import contextlib
import errno
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import nnx
from orbax.checkpoint import v1 as ocp

from step1x_jax.convert.filling import Source
from step1x_jax.convert.keys import by_parameter, model_table
from step1x_jax.convert.official import reader_of
from step1x_jax.convert.tensors import Tensors
from step1x_jax.errors import UserError
from step1x_jax.files import absolute, making_folder
from step1x_jax.json_files import read_json, write_json
from step1x_jax.models.config import LoraConfig, ModelConfig
from step1x_jax.training.checkpoint import (
    DESCRIPTION,
    SCHEMA_VERSION,
    WEIGHTS,
    restore_each,
    why_not_written,
)
from step1x_jax.training.checkpoint_folder import FOLDER
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.config_file import to_json
from step1x_jax.training.fingerprints import checksum, describe, fingerprint_of, name_arrays
from step1x_jax.training.stored_arrays import Index, stored_array


def write_weights_folder(path: epath.PathLike, tensors: Tensors, config: TrainConfig) -> None:
    """Writes official tensors as the checkpoint of step 0 of a run that has only parameters.

    A kernel of all blocks of a kind is one array, of up to 2.9 GB, and Orbax takes whole arrays, of
    which it makes copies. So it gets that of the first block, and tensorstore, in which it stores
    arrays, adds the others, one after another.

    Args:
      path: the folder to make.
      tensors: official ones, which fit config.model.
      config: says the sizes, and how the weights are sampled.

    Raises:
      UserError: the disk is full, or the place is not writable.
    """
    about: dict[str, Any] = {}
    parameters = by_parameter(model_table(config.model))
    _check_dtypes(parameters, tensors)
    with making_folder(path) as temporary, _system_errors():
        folder = absolute(temporary) / FOLDER / "0"
        folder.parent.mkdir()
        for name, sources in parameters.items():
            first = _ours(sources[0], tensors)
            about[name] = {"shape": list(first.shape), "dtype": str(first.dtype)}
            about[name]["fingerprint"] = fingerprint_of(first)
            ocp.partial.save(folder, {name: first})
        ocp.partial.finalize(folder)
        for name, (_, *others) in parameters.items():
            if not others:
                continue
            about[name]["shape"][0] += len(others)
            array = stored_array(folder / WEIGHTS, name)
            array = array.resize(exclusive_max=about[name]["shape"]).result()
            for i, source in enumerate(others, start=1):
                block = _ours(source, tensors)
                array[i : i + 1].write(block).result()
                about[name]["fingerprint"] += fingerprint_of(block)
            about[name]["fingerprint"] %= 2**32
        file = folder / DESCRIPTION
        write_json(file, read_json(file) | {"custom_metadata": _metadata(about, config)})


def _ours(source: Source, tensors: Tensors) -> np.ndarray:
    """One of our parameters, or of a stacked one a block: (1, ...)."""
    part, official, where = source
    piece = tensors.read(official)[where]
    ours = part.to_ours(piece, tuple(map(range, part.shape)), len(piece))
    return ours if part.layer is None else ours[None]


def _check_dtypes(parameters: Mapping[str, Sequence[Source]], tensors: Tensors) -> None:
    for sources in parameters.values():
        first, *others = (official for _, official, _ in sources)
        for other in others:
            if tensors.dtypes[other] != tensors.dtypes[first]:
                raise UserError(
                    f"{other} is {tensors.dtypes[other]}, in another block {tensors.dtypes[first]};"
                    " blocks are stacked here, so give one dtype for all (--dtype)."
                )


def write_adapters_folder(
    path: epath.PathLike, adapters: nnx.State, model: ModelConfig, lora: LoraConfig
) -> None:
    """Writes adapters as the checkpoint of step 0 of a run of adapters, for lora.start_from.

    Args:
      path: the folder to make.
      adapters: the nnx.LoRAParam of a model with adapters.
      model: its sizes.
      lora: the adapters' settings.

    Raises:
      UserError: the disk is full, or the place is not writable.
    """
    config = TrainConfig(model=model, lora=lora)
    arrays = name_arrays(adapters)
    with making_folder(path) as temporary, _system_errors():
        folder = absolute(temporary) / FOLDER / "0"
        folder.parent.mkdir()
        ocp.save(folder, arrays, custom_metadata=_metadata(describe(arrays), config))


def _metadata(about: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """What `Checkpoints.save` writes beside arrays."""
    values = {
        "schema_version": SCHEMA_VERSION,
        "config": to_json(config),
        "arrays": {WEIGHTS: dict(about)},
    }
    return values | {"checksum": checksum(values)}


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """tensorstore's errors of the system as Python has them."""
    try:
        yield
    except ValueError as e:
        if (reason := why_not_written(e)) is None:
            raise
        raise OSError(errno.ENOSPC if "space" in reason else errno.EIO, reason) from e


class ParameterTensors:
    """Our parameters, by path, as official tensors; see `reader_of`."""

    def __init__(self, config: ModelConfig, leaves: Mapping[str, Any]):
        table = model_table(config)
        self.shapes = {name: entry.shape for name, entry in table.items()}
        self.dtypes = {name: leaves[entry.parts[0].path].dtype for name, entry in table.items()}
        self.metadata: dict[str, str] = {}
        self.read = reader_of(table, leaves)


class _OnDisk:
    """An array in a raw file, of which blocks are put, and [layer] or [...] is read."""

    def __init__(self, path: epath.Path, shape: Sequence[int], dtype: np.dtype):
        self._path, self._shape, self.dtype = path, tuple(shape), dtype
        with path.open("wb") as f:
            f.truncate(math.prod(shape) * dtype.itemsize)

    def put(self, index: Index, block: np.ndarray) -> None:
        """Puts a block in its place."""
        row = math.prod(self._shape[1:]) * self.dtype.itemsize
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

    def __getitem__(self, layer: Any) -> np.ndarray:
        shape = self._shape if layer is ... else self._shape[1:]
        size = math.prod(shape) * self.dtype.itemsize
        with self._path.open("rb") as f:
            f.seek(0 if layer is ... else layer * size)
            return np.frombuffer(f.read(size), self.dtype).reshape(shape)


@contextlib.contextmanager
def opened_run(
    workdir: epath.PathLike, beside: epath.PathLike
) -> Iterator[tuple[ParameterTensors, TrainConfig]]:
    """A run's newest whole checkpoint as official tensors.

    A checkpoint has its parameters stacked over all blocks, and cut as its devices had them: they
    are put together in raw files in a temporary folder.

    Args:
      workdir: the run's folder; a run of all parameters.
      beside: a local folder with room for a copy.

    Yields:
      The tensors, to be read while the context lasts, and the run's config.

    Raises:
      UserError: no whole checkpoint, or no room.
    """
    leaves: dict[str, _OnDisk] = {}
    epath.Path(beside).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=beside) as folder:

        def take(name: str, about: Mapping[str, Any], index: Index, block: np.ndarray) -> None:
            if not any(part.start for part in index):  # its first block, maybe once more
                file = epath.Path(folder) / name
                leaves[name] = _OnDisk(file, about["shape"], block.dtype)
            leaves[name].put(index, block)

        try:
            config = restore_each(workdir, take)
        except OSError as e:
            raise UserError(
                f"no room for a copy of {workdir} in {beside} ({e.strerror}); free some space."
            ) from e
        yield ParameterTensors(config.model, leaves), config
