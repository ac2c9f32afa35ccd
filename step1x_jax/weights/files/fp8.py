"""Weights in 8-bit floats, as ComfyUI's users have them: read as plain tensors, and written.

The forms that occur. **Plain**: tensors cast to float8 and nothing else; norms and biases may be
bfloat16. **Scaled**: a layer's weight is float8 times one float32, beside it as `.scale_weight`
(and then an empty or small tensor `scaled_fp8` marks the file) or, newer, `.weight_scale` (and then
a tensor `.comfy_quant` with JSON in it marks the layer, or `_quantization_metadata` in the header
lists the layers); or times one float32 for each row. `.scale_input` and `.input_scale` are for
matmuls of 8-bit activations; the weights do not depend on them.

Reading: float8 -> float32 is exact, times the scale is rounded to float32, then once more if
bfloat16 is wanted. Writing: the weight is divided by the scale in float32 and rounded to the
nearest float8_e4m3fn, ties to even. An e4m3 number has three bits behind its first one, so
|stored - weight| <= 2^-4 |weight|, but for weights below 2^-6 scale, where the step is constant and
the error up to 2^-10 scale.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.json_files import parse_json, shown
from step1x_jax.weights.files.opening import PREFIXES, WeightFile
from step1x_jax.weights.finite import is_finite
from step1x_jax.weights.lora.names import WEIGHT
from step1x_jax.weights.readers import Rows, Shape, Tensors

E4M3 = np.dtype(jnp.float8_e4m3fn)
STORED = {"float8_e4m3fn": E4M3, "float8_e5m2": np.dtype(jnp.float8_e5m2)}
LARGEST = 448.0  # of E4M3
LOOKED_UP_AT_ONCE = 1 << 16
MARKER_BYTES = 1 << 16
AGAIN = "download the file again, or ask for it in bfloat16"

MARKER = "scaled_fp8"
HEADER = "_quantization_metadata"
WEIGHT_SCALES = (".scale_weight", ".weight_scale")
INPUT_SCALES = (".scale_input", ".input_scale")
LAYER_MARKER = ".comfy_quant"
BESIDE = (*WEIGHT_SCALES, *INPUT_SCALES, LAYER_MARKER)


def stored_as(tensors: Tensors) -> str:
    """How a file's numbers are stored: "plain", "fp8" or "scaled fp8"."""
    beside = any(name == MARKER or name.endswith(WEIGHT_SCALES) for name in tensors.shapes)
    if beside or HEADER in tensors.metadata:
        return "scaled fp8"
    return "fp8" if any(dtype in STORED.values() for dtype in tensors.dtypes.values()) else "plain"


def as_numbers(file: WeightFile, dtype: str = "bfloat16") -> "WeightFile | Fp8File":
    """A file's tensors as plain numbers, in whichever of the forms above they are stored.

    Args:
      file: the file.
      dtype: in which what is stored in 8 bits is seen.

    Raises:
      UserError: see `Fp8File`.
    """
    return file if stored_as(file) == "plain" else Fp8File(file, dtype)


class Fp8File:
    """A file with 8-bit floats seen as one without: the weights, and nothing that is beside them.

    What is not 8-bit keeps its dtype.
    """

    def __init__(self, file: WeightFile, dtype: str = "bfloat16"):
        """Reads and checks the scales.

        Args:
          file: in one of the forms above.
          dtype: in which 8-bit tensors are seen: bfloat16 or float32.

        Raises:
          UserError: a scale belongs to no 8-bit weight, is missing, twice there, not one number or
            one for each row, or not positive; a layer is of a format that is not one of these.
        """
        self.file, self.path = file, file.path
        self._wanted = np.dtype(jnp.dtype(dtype))
        self._stored = dict(file.dtypes)
        self.shapes = {
            name: shape
            for name, shape in file.shapes.items()
            if name != MARKER and not name.endswith(BESIDE)
        }
        self.dtypes = {
            name: self._wanted if self._is_fp8(name) else self._stored[name] for name in self.shapes
        }
        self.metadata = {key: text for key, text in file.metadata.items() if key != HEADER}
        self._scales: dict[str, np.ndarray] = {}  # float32, () or (rows,)
        for name in self._stored:
            if name.endswith(BESIDE):
                self._take(name)
        for layer, settings in self._in_header().items():
            self._check_format(layer, settings)
        if stored_as(file) == "scaled fp8":
            for name, shape in self.shapes.items():
                is_weight = name.endswith(WEIGHT) and len(shape) == 2
                if is_weight and self._is_fp8(name) and name not in self._scales:
                    raise UserError(
                        f"{self.path}: {name} has no scale, others do, so its numbers cannot be"
                        f" told; {AGAIN}."
                    )

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows; 8-bit ones in the dtype wanted."""
        stored = self.file.read(name, rows)
        if not self._is_fp8(name):
            return stored
        scale = self._scales.get(name, np.ones((), np.float32))
        with np.errstate(over="ignore", invalid="ignore"):  # told below, where it is of a weight
            if scale.ndim:
                scale = scale if rows is None else scale[rows]
                result = (stored.astype(np.float32) * scale[:, None]).astype(self._wanted)
            else:
                numbers = np.arange(256, dtype=np.uint8).view(stored.dtype).astype(np.float32)
                result = looked_up((numbers * scale).astype(self._wanted), stored)
        if scale.max(initial=0) > 1 and not is_finite(result):
            raise UserError(
                f"{self.path}: {name} times its scale is too large for a number; {AGAIN}."
            )
        return result

    def _is_fp8(self, name: str) -> bool:
        return self._stored[name] in STORED.values()

    def _take(self, name: str) -> None:
        """Accounts for a tensor beside a weight."""
        suffix = next(suffix for suffix in BESIDE if name.endswith(suffix))
        layer = name.removesuffix(suffix)
        weight = layer + WEIGHT
        if weight not in self._stored:
            raise UserError(f"{self.path}: {name} belongs to no weight; {AGAIN}.")
        shape, dtype = self.file.shapes[name], self._stored[name]
        if suffix == LAYER_MARKER:
            if dtype != np.uint8 or math.prod(shape) > MARKER_BYTES:
                raise UserError(f"{self.path}: {name} is no text of JSON; {AGAIN}.")
            self._check_format(layer, _json(self.file.read(name).tobytes(), f"{self.path}: {name}"))
            return
        rows = self.file.shapes[weight][:1]
        if math.prod(shape) != 1 and (shape not in (rows, (*rows, 1)) or suffix in INPUT_SCALES):
            raise UserError(
                f"{self.path}: {name} has shape {list(shape)}; only weights with one scale, or one"
                " for each row, can be read; give the weights in bfloat16."
            )
        if not jnp.issubdtype(dtype, np.floating):
            raise UserError(
                f"{self.path}: {name} is stored as {dtype}, which cannot be read; give the weights"
                " in bfloat16."
            )
        scale = self.file.read(name).astype(np.float32).reshape(-1)
        scale = scale[0] if math.prod(shape) == 1 else scale
        smallest = scale.min()
        if not smallest > 0 or scale.max() == math.inf:  # of float64, say
            raise UserError(f"{self.path}: {name} is {smallest}, no positive number; {AGAIN}.")
        if suffix in INPUT_SCALES:
            return
        if not self._is_fp8(weight):
            if (scale != 1).any():  # some writers put a 1 beside every weight
                raise UserError(
                    f"{self.path}: {name} is {scale.max()}, but {weight} is {self._stored[weight]};"
                    f" {AGAIN}."
                )
            return
        if weight in self._scales:
            raise UserError(f"{self.path}: {weight} has two scales; {AGAIN}.")
        self._scales[weight] = np.asarray(scale)

    def _in_header(self) -> dict[str, Any]:
        if HEADER not in self.file.metadata:
            return {}
        where = f"{self.path}: {HEADER}"
        layers = _json(self.file.metadata[HEADER], where).get("layers")
        if not isinstance(layers, dict):
            raise UserError(f"{where} lists no layers; {AGAIN}.")
        prefix = next((x for x in PREFIXES if all(name.startswith(x) for name in layers)), "")
        return {name.removeprefix(prefix): settings for name, settings in layers.items()}

    def _check_format(self, layer: str, settings: Any) -> None:
        stored = settings.get("format") if isinstance(settings, dict) else settings
        if not isinstance(stored, str) or stored not in STORED:
            raise UserError(
                f"{self.path}: {layer} is stored as {shown(stored)}, which cannot be read; give the"
                f" weights in bfloat16 or {' or '.join(STORED)}."
            )
        found = self._stored.get(layer + WEIGHT)
        if found != STORED[stored]:
            raise UserError(
                f"{self.path}: {layer} should be {stored}, but its weight is"
                f" {found or 'missing'}; {AGAIN}."
            )


def _json(text: str | bytes, where: str) -> dict[str, Any]:
    values = parse_json(text, where)
    if not isinstance(values, dict):
        raise UserError(f"{where} is {shown(values)}, no JSON object; {AGAIN}.")
    return values


def stored_in_fp8(name: str, shape: Shape) -> bool:
    """Whether a published tensor is one of those that `InFp8` stores in 8 bits.

    These are the matrices of the blocks: 95 % of the model's numbers, and all that a matmul over
    many tokens reads. The rest is little and matters more: every token passes the first and the
    last layers, every block is steered by what the embedders and the connector give, and norms and
    biases are a few numbers each.
    """
    in_block = name.startswith(("double_blocks.", "single_blocks."))
    return in_block and name.endswith(WEIGHT) and len(shape) == 2


class InFp8:
    """A model's tensors as a file in 8 bits has them; what is not in 8 bits is bfloat16.

    The scaled form has a scale of largest / 448 for each weight, and its marker has two numbers,
    which tells ComfyUI to multiply in full precision: scales for activations would need examples.
    Written to a file, every such weight is read twice, because a file's float32 tensors come first.
    """

    def __init__(self, source: Tensors, *, scaled: bool):
        """Nothing is read yet.

        Args:
          source: all published tensors, float32, bfloat16 or float16.
          scaled: the scaled form; else the plain one.
        """
        self._source, self._scaled = source, scaled
        self.metadata = source.metadata
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, np.dtype] = {}
        for name, shape in source.shapes.items():
            in_fp8 = stored_in_fp8(name, shape)
            self._has(name, shape, E4M3 if in_fp8 else np.dtype(jnp.bfloat16))
            if in_fp8 and scaled:
                self._has(_scale_of(name), (), np.dtype(np.float32))
        if scaled:
            self._has(MARKER, (2,), E4M3)
        self._scales: dict[str, np.float32] = {}

    def _has(self, name: str, shape: Shape, dtype: np.dtype) -> None:
        self.shapes[name], self.dtypes[name] = shape, dtype

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows; the scale is that of all of them.

        Raises:
          UserError: it is not finite or, in the plain form, larger than 448.
        """
        if name == MARKER and self._scaled:
            return np.zeros(2, E4M3)
        if name not in self._source.shapes:
            return np.array(self._scale(name.removesuffix(WEIGHT_SCALES[0]) + WEIGHT))
        tensor = self._source.read(name, rows)
        if self.dtypes[name] != E4M3:
            return tensor.astype(self.dtypes[name])
        if self._scaled:
            return rounded(tensor, self._scale(name, tensor if rows is None else None))
        if (largest := _largest(name, tensor)) > LARGEST:
            raise UserError(
                f"{name} reaches {largest:g}, and float8_e4m3fn only {LARGEST:g}; write the scaled"
                " form."
            )
        return rounded(tensor, np.float32(1))

    def _scale(self, weight: str, tensor: np.ndarray | None = None) -> np.float32:
        if weight not in self._scales:
            tensor = self._source.read(weight) if tensor is None else tensor
            self._scales[weight] = np.float32((_largest(weight, tensor) or LARGEST) / LARGEST)
        return self._scales[weight]


def _scale_of(weight: str) -> str:
    return weight.removesuffix(WEIGHT) + WEIGHT_SCALES[0]


def rounded(tensor: np.ndarray, scale: np.float32) -> np.ndarray:
    """tensor / scale as float8_e4m3fn, to the nearest, ties to even."""
    numbers = tensor
    if tensor.dtype.itemsize == 2:
        numbers = np.arange(1 << 16, dtype=np.uint16).view(tensor.dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities that do not occur
        quotients = numbers.astype(np.float32) / scale
        eights = np.clip(quotients, -LARGEST, LARGEST).astype(E4M3)
    return eights if numbers is tensor else looked_up(eights, tensor)


def looked_up(table: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    """What a table says of each number of a tensor, many times faster than computing it for each.

    Args:
      table: one result for each of the 256 or 65536 numbers of the tensor's dtype, by their bits.
      tensor: 8-bit or 16-bit numbers.
    """
    index: Any = tensor.reshape(-1).view(np.uint8 if tensor.dtype.itemsize == 1 else np.uint16)
    result = np.empty(index.shape, table.dtype)
    # As plain bytes (numpy is slow with foreign dtypes), in pieces that stay in the cache; "clip"
    # lets numpy write into the result, and no index is ever out of range.
    kind = np.dtype(f"u{table.dtype.itemsize}")
    for i in range(0, len(index), LOOKED_UP_AT_ONCE):
        part = slice(i, i + LOOKED_UP_AT_ONCE)
        np.take(table.view(kind), index[part], out=result.view(kind)[part], mode="clip")
    return result.reshape(tensor.shape)


def _largest(name: str, tensor: np.ndarray) -> float:
    if tensor.dtype.itemsize == 2:  # without the sign, larger bits are larger numbers
        bits = (tensor.view(np.uint16) & 0x7FFF).max(initial=0)
        largest = float(np.array(bits, np.uint16).view(tensor.dtype))
    else:
        largest = float(np.abs(tensor).max(initial=0))
    if not math.isfinite(largest):
        raise UserError(f"{name} has numbers that are not finite, so it has no 8-bit form.")
    return largest
