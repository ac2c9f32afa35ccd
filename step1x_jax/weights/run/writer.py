"""Weights alone as a run's folder, to start training from (training.start_from) or to sample from.

Written block by block: the model is never in memory as a whole.
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
from step1x_jax.weights.filling import Source, our_blocks
from step1x_jax.weights.layouts.official import by_parameter, model_table
from step1x_jax.weights.readers import Tensors
from step1x_jax.weights.run.damage import why_not_written
from step1x_jax.weights.run.description import DESCRIPTION, WEIGHTS, Description
from step1x_jax.weights.run.fingerprints import About, add, describe, fingerprint_of, name_arrays
from step1x_jax.weights.run.folder import FOLDER, check_can_save, folder_of
from step1x_jax.weights.run.stored_arrays import Room, make_room, storing, writing


def write_weights_folder(
    path: epath.PathLike, tensors: Tensors, model: ModelConfig, settings: Mapping[str, Any]
) -> None:
    """Writes official tensors as the checkpoint of step 0 of a run that has only parameters.

    A kernel of all blocks of a kind is one array, of up to 2.9 GB, and Orbax takes whole arrays, of
    which it makes copies. So it gets arrays of one number each, and tensorstore, in which it stores
    arrays, puts the others in their place, block by block: one is made and one noted in the
    description while others are written.

    Args:
      path: the folder to make.
      tensors: official ones.
      model: their sizes and dtypes.
      settings: further sections of the config of a run, as JSON.

    Raises:
      UserError: the disk is full, or the place is not writable.
    """
    check_can_save(folder_of(path))
    table = model_table(model)
    parameters = by_parameter(table)
    _check_dtypes(parameters, tensors)
    rooms: dict[str, Room] = {}
    for name, ((part, official, _), *others) in parameters.items():
        room = Room(part.shape, part.shape, tensors.dtypes[official])
        if part.layer is not None:
            room = Room((1 + len(others), *part.shape), (1, *part.shape), room.dtype)
        rooms[name] = room
    about: About = {
        name: {"shape": list(room.shape), "dtype": str(room.dtype), "fingerprint": [0, 0]}
        for name, room in rooms.items()
    }
    with making_folder(path) as temporary, storing(), _system_errors():
        folder = absolute(temporary) / FOLDER / "0"
        folder.parent.mkdir()
        ocp.save(folder, {name: np.zeros(1, room.dtype) for name, room in rooms.items()})
        arrays = make_room(folder / WEIGHTS, rooms)
        with ThreadPoolExecutor(1) as pool, writing() as write:
            blocks = our_blocks(table, tensors)
            coming = pool.submit(next, blocks, None)
            while (made := coming.result()) is not None:
                coming = pool.submit(next, blocks, None)
                part, block = made
                layer = part.layer or 0
                write(arrays[part.path], (slice(layer, layer + len(block)),), block)
                array = about[part.path]
                bits = fingerprint_of(block, [layer], array["shape"])
                array["fingerprint"] = add(array["fingerprint"], bits)
        file = folder / DESCRIPTION
        metadata = Description({**settings, "model": as_json(model)}, {WEIGHTS: about}).to_json()
        write_json(file, read_json(file) | {"custom_metadata": metadata})


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
    check_can_save(folder_of(path))
    config = {"model": as_json(model), "lora": as_json(lora)}
    arrays = name_arrays(adapters)
    with making_folder(path) as temporary, storing(), _system_errors():
        folder = absolute(temporary) / FOLDER / "0"
        folder.parent.mkdir()
        metadata = Description(config, {WEIGHTS: describe(arrays)}).to_json()
        ocp.save(folder, arrays, custom_metadata=metadata)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """tensorstore's errors of the system as Python has them."""
    try:
        yield
    except ValueError as e:
        if (reason := why_not_written(e)) is None:
            raise
        raise OSError(errno.ENOSPC if "space" in reason else errno.EIO, reason) from e
