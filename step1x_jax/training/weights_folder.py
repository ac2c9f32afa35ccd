"""Weights alone as a run's folder, to start training from (training.start_from) or to sample from,
and a run's parameters as tensors under the official names. Neither ever holds the whole model.
"""

import contextlib
import errno
import math
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from step1x_jax.convert.keys import by_parameter, model_table
from step1x_jax.convert.official import reader_of
from step1x_jax.convert.tensors import Tensors
from step1x_jax.errors import UserError
from step1x_jax.files import absolute, making_folder
from step1x_jax.models.config import ModelConfig
from step1x_jax.training.checkpoint import (
    FOLDER,
    SCHEMA_VERSION,
    WEIGHTS,
    checksum,
    fingerprint_of,
    restore_each,
    why_not_written,
)
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.config_file import to_json


def write_weights_folder(path: epath.PathLike, tensors: Tensors, config: TrainConfig) -> None:
    """Writes official tensors as the checkpoint of step 0 of a run that has only parameters.

    One of our parameters (a kernel of all blocks of a kind) is in memory at a time, twice while
    Orbax writes it.

    Args:
      path: the folder to make.
      tensors: official ones, which fit config.model.
      config: says the sizes, and how the weights are sampled.

    Raises:
      UserError: the disk is full, or the place is not writable.
    """
    about: dict[str, Any] = {}
    with making_folder(path) as temporary, _system_errors():
        folder = absolute(temporary) / FOLDER / "0"
        folder.parent.mkdir()
        for name, parts in by_parameter(model_table(config.model)).items():
            array: np.ndarray | None = None
            for part, official, where in parts:
                piece = tensors.read(official)[where]
                ours = part.to_ours(piece, tuple(map(range, part.shape)), len(piece))
                if array is None:
                    layers = () if part.layer is None else (len(parts),)
                    array = np.empty((*layers, *ours.shape), ours.dtype)
                if ours.dtype != array.dtype:
                    raise UserError(
                        f"{official} is {ours.dtype}, in another block {array.dtype}; blocks are"
                        " stacked here, so give one dtype for all (--dtype)."
                    )
                array[... if part.layer is None else part.layer] = ours
            assert array is not None
            about[name] = {
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "fingerprint": fingerprint_of(array),
            }
            ocp.partial.save(folder, {name: array}, custom_metadata=_metadata(about, config))
        ocp.partial.finalize(folder)


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
    """An array in a raw file, of which [layer] or [...] is read."""

    def __init__(self, path: epath.Path, array: np.ndarray):
        self._path, self._shape, self.dtype = path, array.shape, array.dtype
        with path.open("wb") as f:
            f.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

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

    Its parameters lie stacked over all blocks, which a checkpoint gives whole only: they are copied
    one after another to raw files in a temporary folder.

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

        def keep(name: str, array: np.ndarray) -> None:
            leaves[name] = _OnDisk(epath.Path(folder) / name, array)

        try:
            config = restore_each(workdir, keep)
        except OSError as e:
            raise UserError(
                f"no room for a copy of {workdir} in {beside} ({e.strerror}); free some space."
            ) from e
        yield ParameterTensors(config.model, leaves), config
