"""Weights in several .safetensors files with an index, as diffusers and transformers write them.

The files are STEM-00001-of-00002.safetensors, ..., and STEM.safetensors.index.json, whose
`weight_map` gives the file of each tensor. A variant's index is named
STEM.safetensors.index.fp16.json. A single file is STEM.safetensors, without an index.
"""

import re
from typing import Any

import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import file_size, find, is_file, reason
from step1x_jax.json_files import LARGEST, write_json
from step1x_jax.weights.files.safetensors_io import (
    SafetensorsFile,
    parse_json_object,
    write_safetensors,
)
from step1x_jax.weights.finite import RequireFinite
from step1x_jax.weights.readers import RowIndices, Shape, Tensors, nbytes

STEM = "diffusion_pytorch_model"
INDEX = ".safetensors.index.json"
_ANY_INDEX = re.compile(r".*\.safetensors\.index(\.[\w-]+)?\.json")  # group 1: the variant
_SHARD_NAME = re.compile(r"[^/\\]{1,240}\.safetensors")
SHARD_BYTES = 10 * 10**9  # as diffusers


def is_index(path: epath.PathLike) -> bool:
    """Return whether a file has the name of an index."""
    return _ANY_INDEX.fullmatch(epath.Path(path).name) is not None


def indices(folder: epath.PathLike) -> list[epath.Path]:
    """Return the indices in a folder; those of variants (fp16) only if there is no other."""
    found = [path for path in find(folder, "*.json") if is_index(path)]
    plain = [path for path in found if path.name.endswith(INDEX)]
    return plain or found


class ShardedFile:
    """A reader of all files of an index."""

    def __init__(self, index: epath.PathLike):
        """Read the index and all headers.

        Args:
          index: its path.

        Raises:
          UserError: the index is unreadable, names files outside its folder or that are missing,
            or does not fit what the files hold.
        """
        self.path = epath.Path(index)
        where = _weight_map(self.path)
        names = sorted(set(where.values()))
        if missing := [name for name in names if not (self.path.parent / name).exists()]:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise UserError(
                f"{self.path.parent} lacks {', '.join(missing[:3])}{more} of the {len(names)} files"
                f" in its {self.path.name}; download what is missing."
            )
        self._files = {name: SafetensorsFile(self.path.parent / name) for name in names}
        self._file_of: dict[str, SafetensorsFile] = {}
        for file_name, file in self._files.items():
            for name in file.shapes:
                if name in self._file_of:
                    other = self._file_of[name].path.name
                    raise UserError(
                        f"{self.path.parent} has {name} twice, in {other} and {file_name};"
                        " download the folder again, without files of another download in it."
                    )
                if where.get(name) != file_name:
                    raise UserError(
                        f"{file_name} has {name}, which {self.path} does not list for it; download"
                        " both again: they are from different downloads."
                    )
                self._file_of[name] = file
        for name, file_name in where.items():
            if name not in self._file_of:
                raise UserError(
                    f"{file_name} lacks {name}, which {self.path} lists; download both again: they"
                    " are from different downloads."
                )
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.metadata: dict[str, str] = {}
        for file in self._files.values():
            self.shapes |= file.shapes
            self.dtypes |= file.dtypes
            self.metadata |= file.metadata

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows, in the file's dtype."""
        return self._file_of[name].read(name, rows)


def _weight_map(path: epath.Path) -> dict[str, str]:
    """Read an index: tensor name -> name of a file in the index's folder."""
    try:
        if not is_file(path):
            raise UserError(f"{path} does not exist; give the index of a folder of weights.")
        if (size := file_size(path)) > LARGEST:
            raise ValueError(f"it has {size} bytes")
        where: Any = parse_json_object(path.read_bytes(), "its text").get("weight_map")
        if not (where and isinstance(where, dict) and all(type(x) is str for x in where.values())):
            raise ValueError("its weight_map does not give a file for each tensor")
    except OSError as e:
        raise UserError(
            f"{path} cannot be read ({reason(e)}); check its permissions and disk."
        ) from e
    except ValueError as e:
        raise UserError(f"{path} is not a readable index ({e}); download it again.") from e
    for name in set(where.values()):
        if not _SHARD_NAME.fullmatch(name) or not name.isprintable():
            raise UserError(
                f"{path} names {name!r}, which is not a .safetensors file in its own folder; do"
                " not use it unless you know where it comes from."
            )
    return where


def write_shards(folder: epath.Path, tensors: Tensors) -> None:
    """Write one file, or several and an index if the file would be larger than SHARD_BYTES.

    Args:
      folder: an existing folder.
      tensors: what to write, in this order.

    Raises:
      UserError: a tensor is not finite, the disk is full, or the folder cannot be written.
    """
    tensors = RequireFinite(tensors, folder)
    shards: list[list[str]] = [[]]
    free = SHARD_BYTES
    for name in tensors.shapes:
        if nbytes(tensors, name) > free and shards[-1]:
            shards.append([])
            free = SHARD_BYTES
        shards[-1].append(name)
        free -= nbytes(tensors, name)
    if len(shards) == 1:
        write_safetensors(folder / f"{STEM}.safetensors", tensors)
        return
    where: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"{STEM}-{i:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, tensors, names)
        where |= dict.fromkeys(names, file)
    total = {"total_size": sum(nbytes(tensors, name) for name in where)}
    write_json(folder / f"{STEM}{INDEX}", {"metadata": total, "weight_map": where})
