"""Writes weights alone as a run's folder, for training (training.start_from) or sampling.

Weights are written block by block, so the model is never in memory as a whole.
"""

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from flax import nnx
from orbax.checkpoint import v1 as ocp

from step1x_jax.errors import UserError
from step1x_jax.files import absolute, making_folder
from step1x_jax.json_files import as_json, read_json, write_json
from step1x_jax.models.config import LoraConfig, ModelConfig
from step1x_jax.weights.filling import SliceSource, iter_blocks
from step1x_jax.weights.layouts.official import model_table, slices_by_parameter
from step1x_jax.weights.readers import Tensors
from step1x_jax.weights.run.damage import write_failure_reason
from step1x_jax.weights.run.description import DESCRIPTION, WEIGHTS, CheckpointDescription
from step1x_jax.weights.run.fingerprints import (
    ArrayInfos,
    combine,
    describe_arrays,
    fingerprint_of,
    name_arrays,
)
from step1x_jax.weights.run.folder import FOLDER, check_can_save, checkpoints_folder
from step1x_jax.weights.run.stored_arrays import (
    ArraySpec,
    block_writer,
    create_arrays,
    save_context,
)


def write_weights_folder(
    path: epath.PathLike, tensors: Tensors, model: ModelConfig, settings: Mapping[str, Any]
) -> None:
    """Write official tensors as the checkpoint of step 0 of a run that has only parameters.

    The kernels of all blocks are stacked in one array of up to 2.9 GB, and Orbax handles only whole
    arrays, of which it makes copies. Therefore Orbax writes arrays of a single number, and
    tensorstore, in which Orbax stores arrays, replaces them block by block: one block is made and
    one is hashed while others are written.

    Args:
      path: the folder to make.
      tensors: the official tensors.
      model: their sizes and dtypes.
      settings: further sections of a run's config, as JSON.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    check_can_save(checkpoints_folder(path))
    table = model_table(model)
    parameters = slices_by_parameter(table)
    _check_dtypes(parameters, tensors)
    specs: dict[str, ArraySpec] = {}
    for name, ((part, official, _), *others) in parameters.items():
        spec = ArraySpec(part.shape, part.shape, tensors.dtypes[official])
        if part.layer is not None:
            spec = ArraySpec((1 + len(others), *part.shape), (1, *part.shape), spec.dtype)
        specs[name] = spec
    infos: ArrayInfos = {
        name: {"shape": list(spec.shape), "dtype": str(spec.dtype), "fingerprint": [0, 0]}
        for name, spec in specs.items()
    }
    with making_folder(path) as temporary, save_context(), _system_errors():
        folder = absolute(temporary) / FOLDER / "0"
        folder.parent.mkdir()
        ocp.save(folder, {name: np.zeros(1, spec.dtype) for name, spec in specs.items()})
        arrays = create_arrays(folder / WEIGHTS, specs)
        with ThreadPoolExecutor(1) as pool, block_writer() as write:
            blocks = iter_blocks(table, tensors)
            pending = pool.submit(next, blocks, None)
            while (item := pending.result()) is not None:
                pending = pool.submit(next, blocks, None)
                part, block = item
                layer = part.layer or 0
                write(arrays[part.path], (slice(layer, layer + len(block)),), block)
                array = infos[part.path]
                added = fingerprint_of(block, [layer], array["shape"])
                array["fingerprint"] = combine(array["fingerprint"], added)
        file = folder / DESCRIPTION
        metadata = CheckpointDescription(
            {**settings, "model": as_json(model)}, {WEIGHTS: infos}
        ).to_json()
        write_json(file, read_json(file) | {"custom_metadata": metadata})


def _check_dtypes(parameters: Mapping[str, Sequence[SliceSource]], tensors: Tensors) -> None:
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
    """Write adapters as the checkpoint of step 0 of a run of adapters, for lora.start_from.

    Args:
      path: the folder to make.
      adapters: the nnx.LoRAParam of a model with adapters.
      model: its sizes.
      lora: settings of the adapters.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    check_can_save(checkpoints_folder(path))
    config = {"model": as_json(model), "lora": as_json(lora)}
    arrays = name_arrays(adapters)
    with making_folder(path) as temporary, save_context(), _system_errors():
        folder = absolute(temporary) / FOLDER / "0"
        folder.parent.mkdir()
        metadata = CheckpointDescription(config, {WEIGHTS: describe_arrays(arrays)}).to_json()
        ocp.save(folder, arrays, custom_metadata=metadata)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """A context that converts tensorstore's system errors to OSError."""
    try:
        yield
    except ValueError as e:
        if (reason := write_failure_reason(e)) is None:
            raise
        raise OSError(errno.ENOSPC if "space" in reason else errno.EIO, reason) from e
