"""Weights in several .safetensors files with an index, as diffusers and transformers write them.

STEM-00001-of-00002.safetensors, ..., and STEM.safetensors.index.json, whose `weight_map` says which
file has which tensor. One file alone is STEM.safetensors, without an index.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from step1x_jax.convert.safetensors_io import SafetensorsFile, without_twins, write_safetensors
from step1x_jax.convert.tensors import Shape
from step1x_jax.errors import UserError
from step1x_jax.json_files import write_json

STEM = "diffusion_pytorch_model"
INDEX = ".safetensors.index.json"
SHARD_BYTES = 10 * 10**9  # diffusers' own limit


class ShardedFile:
    """The files of an index as one reader."""

    def __init__(self, index: epath.PathLike):
        """Reads the index and all headers.

        Args:
          index: path of the .safetensors.index.json.

        Raises:
          UserError: the index is unreadable, names files outside its folder, or does not fit what
            the files hold.
        """
        self.path = epath.Path(index)
        where = _weight_map(self.path)
        self._files = {
            name: SafetensorsFile(self.path.parent / name) for name in sorted(set(where.values()))
        }
        self._file_of: dict[str, SafetensorsFile] = {}
        for file_name, file in self._files.items():
            for name in file.shapes:
                if name in self._file_of:
                    other = self._file_of[name].path.name
                    raise UserError(
                        f"{self.path.parent} has {name} twice, in {other} and {file_name}; fetch"
                        " the folder again."
                    )
                if where.get(name) != file_name:
                    raise UserError(
                        f"{file_name} has {name}, which {self.path} does not say; fetch the folder"
                        " again."
                    )
                self._file_of[name] = file
        for name, file_name in where.items():
            if name not in self._file_of:
                raise UserError(
                    f"{file_name} lacks {name}, which {self.path} promises; fetch the folder again."
                )
        self.shapes = {name: file.shapes[name] for file in self._files.values()
                       for name in file.shapes}  # fmt: skip
        self.dtypes = {name: dtype for file in self._files.values()
                       for name, dtype in file.dtypes.items()}  # fmt: skip
        self.metadata: dict[str, str] = {}
        for file in self._files.values():
            self.metadata |= file.metadata

    def read(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """One tensor, or some of its rows, in the files' dtype."""
        return self._file_of[name].read(name, rows)


WeightFile = SafetensorsFile | ShardedFile


def _weight_map(path: epath.Path) -> dict[str, str]:
    """The index: tensor -> name of a file in the index's folder."""
    try:
        values: Any = json.loads(path.read_text(), object_pairs_hook=without_twins)
        where = values["weight_map"]
        if not (where and all(isinstance(x, str) for pair in where.items() for x in pair)):
            raise ValueError("its weight_map does not give a file for each tensor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{path} is no readable index ({e}); fetch the folder again.") from e
    for name in where.values():
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise UserError(
                f"{path} names {name!r}, which is no .safetensors file of its own folder; do not"
                " use it unless you know where it is from."
            )
    return where


def write_shards(
    folder: epath.Path,
    tensors: Mapping[str, tuple[Shape, np.dtype]],
    get: Callable[[str], np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes one file, or several with an index where it would be larger than SHARD_BYTES.

    Args:
      folder: where; it exists.
      tensors: name -> shape and dtype.
      get: gives a named tensor when its turn has come.
      metadata: strings for the headers.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    sizes = {n: np.dtype(dtype).itemsize * math.prod(s) for n, (s, dtype) in tensors.items()}
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    for name in tensors:
        if sizes[name] > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= sizes[name]
    if len(shards) == 1:
        write_safetensors(folder / f"{STEM}.safetensors", tensors, get, metadata)
        return
    where: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"{STEM}-{i:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, {n: tensors[n] for n in names}, get, metadata)
        where |= dict.fromkeys(names, file)
    total = {"total_size": sum(sizes.values())}
    write_json(folder / f"{STEM}{INDEX}", {"metadata": total, "weight_map": where})
