"""The noise that an edit starts from: of a seed, or of a file that another program drew."""

import io
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError
from step1x_jax.json_files import shown

SEED_BITS = 64
LARGEST = 1 << 30  # bytes of a file
MAGIC = b"\x93NUMPY"


def check_seed(seed: object, count: int = 1) -> int:
    """A seed as an int.

    Args:
      seed: of the first of `count` pictures; the others have the next ones.
      count: of pictures.

    Raises:
      UserError: it is no whole number, negative, or the last one has over 64 bits.
    """
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise UserError(f"the seed is {shown(seed)}; give one whole number.")
    first = int(seed)
    if not 0 <= first <= (1 << SEED_BITS) - count:
        raise UserError(
            f"the seed is {shown(first)}; give a number from 0 to 2^{SEED_BITS} - 1 for each"
            " picture, counted on from the first one's."
        )
    return first


def noise_from_seed(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """Noise in which every bit of the seed counts.

    Args:
      seed: see `check_seed`.
      shape: (B, h, w, 16).

    Returns:
      (B, h, w, 16) float32; example i of seed s is the only example of seed s + i.

    Raises:
      UserError: see `check_seed`.
    """
    first = check_seed(seed, shape[0])
    return jnp.stack([jax.random.normal(_key(first + i), shape[1:]) for i in range(shape[0])])


def _key(seed: int) -> jax.Array:
    """jax.random.key(seed), which without 64-bit mode would drop the upper half."""
    words = jax.device_put(np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32))
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def noise_given(noise: Any, shape: tuple[int, ...]) -> jax.Array:
    """Noise that another program drew, so that results can be compared.

    Args:
      noise: an array in the published layout, (B, 16, h, w), or a file, see `read_noise`.
      shape: the wanted (B, h, w, 16).

    Returns:
      (B, h, w, 16) float32.

    Raises:
      UserError: see `read_noise`, or it has another shape or values that are not finite.
    """
    if isinstance(noise, str | os.PathLike):
        name, values = f"noise file {noise}", read_noise(noise)
    else:
        name, values = "the noise", np.asarray(noise)
        if values.dtype.kind != "f":
            raise UserError(f"the noise holds {_in_words(values.dtype)}; give float32 numbers.")
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError("the noise has values that are not finite; draw it again.")
    b, h, w, c = shape
    if values.shape != (b, c, h, w):
        raise UserError(
            f"{name} has shape {shown(list(values.shape))}, this edit needs {[b, c, h, w]}; draw it"
            " again, or give the --size it was drawn for."
        )
    return jnp.asarray(values.transpose(0, 2, 3, 1))


def read_noise(path: epath.PathLike) -> np.ndarray:
    """The array of a noise file as float32, in the file's layout.

    Args:
      path: a .npy file in the published layout, (B, 16, h, w), float16, float32 or float64.

    Raises:
      UserError: no such file, of another dtype, or with values that are not finite.
    """
    data = read_input_file(path, "a .npy file", LARGEST)
    shape, dtype, size = _read_header(data, path)
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise UserError(
            f"noise file {path} holds {_in_words(dtype)}; save float32 numbers with numpy.save."
        )
    if math.prod(shape) * dtype.itemsize != size:  # before anything of that shape is allocated
        raise UserError(
            f"noise file {path} is cut off, or longer than its shape {shown(list(shape))}; save it"
            " again."
        )
    with np.errstate(over="ignore"):
        noise = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    if not np.isfinite(noise).all():
        raise UserError(
            f"noise file {path} has values that are not finite in float32; draw it again."
        )
    return noise


def _read_header(data: bytes, path: epath.PathLike) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and dtype in a .npy file, and how many bytes follow."""
    if data.startswith(b"PK"):
        raise UserError(
            f"noise file {path} is an .npz archive; save the array alone with numpy.save."
        )
    if not data.startswith(MAGIC):
        raise UserError(f"noise file {path} is no readable .npy file; save it with numpy.save.")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as e:  # what numpy's parser of the header raises is nearly anything
        raise UserError(
            f"noise file {path} is no readable .npy file ({str(e)[:200]}); save it again."
        ) from e
    return shape, dtype, len(data) - file.tell()


def _in_words(dtype: np.dtype) -> str:
    kinds = {
        "b": "booleans", "i": "integers", "u": "integers", "c": "complex numbers", "U": "text",
        "S": "bytes", "M": "dates", "m": "times", "O": "Python objects", "V": "structures",
    }  # fmt: skip
    return kinds.get(dtype.kind, str(dtype))
