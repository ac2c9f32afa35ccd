"""A run's parameters as tensors under the official names, never in memory as a whole."""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from tqdm import tqdm

from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.training.checkpoint import (
    describe_newest,
    find_base,
    restore_each,
    restore_trained,
)
from step1x_jax.training.config import TrainConfig
from step1x_jax.weights.filling import our_block
from step1x_jax.weights.layouts.official import by_parameter, model_table
from step1x_jax.weights.load import check_tensors, open_model, reader_of
from step1x_jax.weights.lora.adapters import Adapters
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.readers import Cast, Tensors
from step1x_jax.weights.run.description import check_same_base
from step1x_jax.weights.run.fingerprints import About, add, fingerprint_of
from step1x_jax.weights.run.folder import FOLDER
from step1x_jax.weights.run.stored_arrays import Index


@contextlib.contextmanager
def opened_run(
    workdir: epath.PathLike, beside: epath.PathLike, *, base: str = "", sums: str | None = None
) -> Iterator[tuple[Tensors, TrainConfig]]:
    """A run's newest whole checkpoint as official tensors; adapters merged into their base.

    A checkpoint has its parameters stacked over all blocks, and cut as its devices had them: they
    are put together in raw files in a temporary folder. The base of adapters is read twice: first
    it is compared with the one that they were trained on.

    Args:
      workdir: the run's folder.
      beside: a local folder with room for a copy of a run of all parameters.
      base: where the base of adapters lies now, if it has moved.
      sums: dtype of the weights that have adapters; None rounds them to the base's.

    Yields:
      The tensors, to be read while the context lasts, and the run's config.

    Raises:
      UserError: no whole checkpoint, or no room; the base is not where it was, or another one.
    """
    adapters = describe_newest(workdir)[1].lora.rank
    opened = _adapted(workdir, beside, base, sums) if adapters else _trained(workdir, beside)
    with opened as (tensors, config):
        yield tensors, config


@contextlib.contextmanager
def _adapted(
    workdir: epath.PathLike, beside: epath.PathLike, base: str, sums: str | None
) -> Iterator[tuple[Tensors, TrainConfig]]:
    adapters, config, path, saved_base = restore_trained(workdir)
    source = find_base(workdir, config, base)
    with contextlib.ExitStack() as stack:
        tensors: Tensors
        if (epath.Path(source) / FOLDER).is_dir():
            tensors, _ = stack.enter_context(opened_run(source, beside))
            check_tensors(epath.Path(source), tensors.shapes, model_table(config.model))
        else:
            tensors = open_model(source, config.model)
        tensors = Cast(tensors, np.dtype(jnp.dtype(config.model.param_dtype)))
        if saved_base:  # a LoRA of others does not say what it was trained on
            check_same_base(saved_base, _describe(tensors, config.model), path, config)
        lora = Adapters(adapters, config.model, config.lora)
        dtypes = dict(tensors.dtypes)
        if sums is not None:
            dtypes |= {f"{name}.weight": np.dtype(jnp.dtype(sums)) for name in lora.shapes}
        yield Merged(tensors, [(lora, 1.0)], dtypes), config


def _describe(tensors: Tensors, config: ModelConfig) -> About:
    """As `describe`, of our parameters in official tensors, block by block."""
    about: About = {}
    parameters = by_parameter(model_table(config))
    for name, sources in tqdm(parameters.items(), desc="comparing the base", unit="parameter"):
        bits = [0, 0]
        for layer, source in enumerate(sources):
            block = our_block(source, tensors)
            shape = list(block.shape)
            if len(sources) > 1:
                shape[0] = len(sources)
            bits = add(bits, fingerprint_of(block, [layer], shape))
        about[name] = {"shape": shape, "dtype": str(block.dtype), "fingerprint": bits}
    return about


@contextlib.contextmanager
def _trained(
    workdir: epath.PathLike, beside: epath.PathLike
) -> Iterator[tuple[Tensors, TrainConfig]]:
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
        yield _ParameterTensors(config.model, leaves), config


class _ParameterTensors:
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
