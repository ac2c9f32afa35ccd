"""Weights in 8-bit floats, as ComfyUI's users have them: read as plain tensors, and written.

Formats. **Plain**: tensors are cast to float8 and nothing else; norms and biases may be bfloat16.
**Scaled**: a layer's weight is float8 times a float32 scale, either one for the weight or one for
each row. The scale is a tensor beside the weight, `.scale_weight` (then an empty or small tensor
`scaled_fp8` marks the file) or, newer, `.weight_scale` (then a tensor `.comfy_quant` with JSON
marks the layer, or `_quantization_metadata` in the header lists the layers). `.scale_input` and
`.input_scale` are for matmuls with 8-bit activations; the weights do not depend on them.

Reading: float8 -> float32 is exact; the product with the scale is rounded to float32, and once more
to bfloat16 if requested. Writing: the weight is divided by the scale in float32 and rounded to the
nearest float8_e4m3fn, ties to even. e4m3 has three mantissa bits, so |stored - weight| <= 2^-4
|weight|. Below 2^-6 scale numbers are subnormal: the error is at most 2^-10 scale.
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
from step1x_jax.weights.readers import RowIndices, Shape, Tensors

E4M3 = np.dtype(jnp.float8_e4m3fn)
STORED = {"float8_e4m3fn": E4M3, "float8_e5m2": np.dtype(jnp.float8_e5m2)}
LARGEST = 448.0  # finite E4M3 number
TABLE_CHUNK = 1 << 16
MARKER_BYTES = 1 << 16
DOWNLOAD_AGAIN = "download the file again, or get it in bfloat16"

MARKER = "scaled_fp8"
HEADER = "_quantization_metadata"
WEIGHT_SCALES = (".scale_weight", ".weight_scale")
INPUT_SCALES = (".scale_input", ".input_scale")
LAYER_MARKER = ".comfy_quant"
BESIDE = (*WEIGHT_SCALES, *INPUT_SCALES, LAYER_MARKER)


def number_format(tensors: Tensors) -> str:
    """Return how a file's numbers are stored: "plain", "fp8" or "scaled fp8"."""
    beside = any(name == MARKER or name.endswith(WEIGHT_SCALES) for name in tensors.shapes)
    if beside or HEADER in tensors.metadata:
        return "scaled fp8"
    return "fp8" if any(dtype in STORED.values() for dtype in tensors.dtypes.values()) else "plain"


def dequantize(file: WeightFile, dtype: str = "bfloat16") -> "WeightFile | Fp8File":
    """Show a file's tensors without 8-bit numbers, whichever of the formats above it has.

    Args:
      file: the file.
      dtype: of tensors that are stored in 8 bits: "bfloat16" or "float32".

    Raises:
      UserError: see `Fp8File`.
    """
    return file if number_format(file) == "plain" else Fp8File(file, dtype)


class Fp8File:
    """A reader of a file with 8-bit floats: dequantized weights, without scales and markers.

    Tensors that are not stored in 8 bits keep their dtype.
    """

    def __init__(self, file: WeightFile, dtype: str = "bfloat16"):
        """Read and check the scales.

        Args:
          file: in one of the formats above.
          dtype: of tensors that are stored in 8 bits: "bfloat16" or "float32".

        Raises:
          UserError: a scale belongs to no 8-bit weight, is missing, occurs twice, is neither one
            number nor one for each row, or is not positive; a layer has an unsupported format.
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
                self._add_scale(name)
        for layer, settings in self._header_layers().items():
            self._check_format(layer, settings)
        if number_format(file) == "scaled fp8":
            for name, shape in self.shapes.items():
                is_weight = name.endswith(WEIGHT) and len(shape) == 2
                if is_weight and self._is_fp8(name) and name not in self._scales:
                    raise UserError(
                        f"{self.path}: {name} has no scale, but other weights have, so its"
                        f" numbers are unknown; {DOWNLOAD_AGAIN}."
                    )

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows; 8-bit tensors are dequantized.

        Raises:
          UserError: a product with a scale overflows.
        """
        stored = self.file.read(name, rows)
        if not self._is_fp8(name):
            return stored
        scale = self._scales.get(name, np.ones((), np.float32))
        with np.errstate(over="ignore", invalid="ignore"):  # checked below, for weights
            if scale.ndim:
                scale = scale if rows is None else scale[rows]
                result = (stored.astype(np.float32) * scale[:, None]).astype(self._wanted)
            else:
                numbers = np.arange(256, dtype=np.uint8).view(stored.dtype).astype(np.float32)
                result = take_table((numbers * scale).astype(self._wanted), stored)
        if scale.max(initial=0) > 1 and not is_finite(result):
            raise UserError(f"{self.path}: {name} times its scale overflows; {DOWNLOAD_AGAIN}.")
        return result

    def _is_fp8(self, name: str) -> bool:
        return self._stored[name] in STORED.values()

    def _add_scale(self, name: str) -> None:
        """Check a tensor beside a weight, and store it if it is the weight's scale."""
        suffix = next(suffix for suffix in BESIDE if name.endswith(suffix))
        layer = name.removesuffix(suffix)
        weight = layer + WEIGHT
        if weight not in self._stored:
            raise UserError(f"{self.path}: {name} belongs to no weight; {DOWNLOAD_AGAIN}.")
        shape, dtype = self.file.shapes[name], self._stored[name]
        if suffix == LAYER_MARKER:
            if dtype != np.uint8 or math.prod(shape) > MARKER_BYTES:
                raise UserError(f"{self.path}: {name} is not JSON; {DOWNLOAD_AGAIN}.")
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
        if not smallest > 0 or scale.max() == math.inf:  # infinite: e.g. from float64
            raise UserError(
                f"{self.path}: {name} is {smallest}, not a positive number; {DOWNLOAD_AGAIN}."
            )
        if suffix in INPUT_SCALES:
            return
        if not self._is_fp8(weight):
            if (scale != 1).any():  # some programs write a scale of 1 for every weight
                raise UserError(
                    f"{self.path}: {name} is {scale.max()}, but {weight} is {self._stored[weight]};"
                    f" {DOWNLOAD_AGAIN}."
                )
            return
        if weight in self._scales:
            raise UserError(f"{self.path}: {weight} has two scales; {DOWNLOAD_AGAIN}.")
        self._scales[weight] = np.asarray(scale)

    def _header_layers(self) -> dict[str, Any]:
        if HEADER not in self.file.metadata:
            return {}
        where = f"{self.path}: {HEADER}"
        layers = _json(self.file.metadata[HEADER], where).get("layers")
        if not isinstance(layers, dict):
            raise UserError(f"{where} lists no layers; {DOWNLOAD_AGAIN}.")
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
                f" {found or 'missing'}; {DOWNLOAD_AGAIN}."
            )


def _json(text: str | bytes, where: str) -> dict[str, Any]:
    values = parse_json(text, where)
    if not isinstance(values, dict):
        raise UserError(f"{where} is {shown(values)}, not a JSON object; {DOWNLOAD_AGAIN}.")
    return values


def is_fp8_weight(name: str, shape: Shape) -> bool:
    """Return whether `QuantizeToFp8` stores an official tensor in 8 bits.

    These are the matrices of the blocks: 95 % of the parameters, and all that a matmul over many
    tokens reads. The rest is small and more sensitive: every token passes through the first and
    last layers, the embedders and the connector steer every block, and norms and biases are a few
    numbers each.
    """
    in_block = name.startswith(("double_blocks.", "single_blocks."))
    return in_block and name.endswith(WEIGHT) and len(shape) == 2


class QuantizeToFp8:
    """A reader of a model's tensors in 8 bits; tensors that stay unquantized are bfloat16.

    In the scaled format each weight has the scale max|weight| / 448. The marker has two numbers,
    which tells ComfyUI to compute in full precision: scales for activations would need calibration
    data. When the tensors are written to a file, every quantized weight is read twice, because
    float32 tensors (the scales) come first.
    """

    def __init__(self, source: Tensors, *, scaled: bool):
        """Determine names, shapes and dtypes; no tensor is read.

        Args:
          source: reader of all official tensors: float32, bfloat16 or float16.
          scaled: the scaled format; else the plain one.
        """
        self._source, self._scaled = source, scaled
        self.metadata = source.metadata
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, np.dtype] = {}
        for name, shape in source.shapes.items():
            in_fp8 = is_fp8_weight(name, shape)
            self._declare(name, shape, E4M3 if in_fp8 else np.dtype(jnp.bfloat16))
            if in_fp8 and scaled:
                self._declare(_scale_name(name), (), np.dtype(np.float32))
        if scaled:
            self._declare(MARKER, (2,), E4M3)
        self._scales: dict[str, np.float32] = {}

    def _declare(self, name: str, shape: Shape, dtype: np.dtype) -> None:
        self.shapes[name], self.dtypes[name] = shape, dtype

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows; the scale is always that of the whole tensor.

        Raises:
          UserError: a number is not finite or, in the plain format, larger than 448.
        """
        if name == MARKER and self._scaled:
            return np.zeros(2, E4M3)
        if name not in self._source.shapes:
            return np.array(self._scale(name.removesuffix(WEIGHT_SCALES[0]) + WEIGHT))
        tensor = self._source.read(name, rows)
        if self.dtypes[name] != E4M3:
            return tensor.astype(self.dtypes[name])
        if self._scaled:
            return round_to_fp8(tensor, self._scale(name, tensor if rows is None else None))
        if (largest := _largest(name, tensor)) > LARGEST:
            raise UserError(
                f"{name} reaches {largest:g}, and float8_e4m3fn only {LARGEST:g}; write the scaled"
                " format."
            )
        return round_to_fp8(tensor, np.float32(1))

    def _scale(self, weight: str, tensor: np.ndarray | None = None) -> np.float32:
        if weight not in self._scales:
            tensor = self._source.read(weight) if tensor is None else tensor
            self._scales[weight] = np.float32((_largest(weight, tensor) or LARGEST) / LARGEST)
        return self._scales[weight]


def _scale_name(weight: str) -> str:
    return weight.removesuffix(WEIGHT) + WEIGHT_SCALES[0]


def round_to_fp8(tensor: np.ndarray, scale: np.float32) -> np.ndarray:
    """Return tensor / scale, rounded to the nearest float8_e4m3fn, ties to even."""
    numbers = tensor
    if tensor.dtype.itemsize == 2:
        numbers = np.arange(1 << 16, dtype=np.uint16).view(tensor.dtype)
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # 16-bit tables hold infinities that do not occur
        quotients = numbers.astype(np.float32) / scale
        fp8 = np.clip(quotients, -LARGEST, LARGEST).astype(E4M3)
    return fp8 if numbers is tensor else take_table(fp8, tensor)


def take_table(table: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    """Return table[bits of each number], which is many times faster than computing each result.

    Args:
      table: results for all 256 or 65536 numbers of the tensor's dtype, indexed by their bits.
      tensor: 8-bit or 16-bit numbers, any shape.
    """
    index: Any = tensor.reshape(-1).view(np.uint8 if tensor.dtype.itemsize == 1 else np.uint16)
    result = np.empty(index.shape, table.dtype)
    # As unsigned integers (numpy is slow with custom dtypes), in chunks that fit in the cache. Mode
    # "clip" lets numpy write to `out` without a buffer; no index is out of range.
    unsigned = np.dtype(f"u{table.dtype.itemsize}")
    for i in range(0, len(index), TABLE_CHUNK):
        part = slice(i, i + TABLE_CHUNK)
        np.take(table.view(unsigned), index[part], out=result.view(unsigned)[part], mode="clip")
    return result.reshape(tensor.shape)


def _largest(name: str, tensor: np.ndarray) -> float:
    if tensor.dtype.itemsize == 2:  # magnitudes are ordered like their bits
        bits = (tensor.view(np.uint16) & 0x7FFF).max(initial=0)
        largest = float(np.array(bits, np.uint16).view(tensor.dtype))
    else:
        largest = float(np.abs(tensor).max(initial=0))
    if not math.isfinite(largest):
        raise UserError(
            f"{name} has numbers that are not finite, so it cannot be stored in 8 bits; check the"
            " input."
        )
    return largest
