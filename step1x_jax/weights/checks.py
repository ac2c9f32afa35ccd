"""Checks of a file's tensors that need only its header."""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.weights.layouts.official import Table

WRONG_SIZES = "Give the right file, or put a config.json with its sizes beside it."
# Suffixes of tensor names -> the program or format of unsupported quantized weights.
QUANTIZED = {
    (".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4", ".SCB"): "bitsandbytes",
    (".qweight", ".qzeros", ".g_idx", ".wscales", ".smooth_factor"): "GPTQ, AWQ or nunchaku",
    (".weight_scale_2", ".weight_packed"): "4 bits (nvfp4)",
    (".zero_point", ".weight_zero_point"): "integers with zero points",
}


def common_dtype(dtypes: Iterable[np.dtype]) -> str:
    """Return the parameter dtype that holds all of these exactly: bfloat16 or float32."""
    return "bfloat16" if set(dtypes) <= {np.dtype(jnp.bfloat16)} else "float32"


def check_tensors(
    path: epath.Path,
    shapes: Mapping[str, tuple[int, ...]],
    table: Table,
    advice: str = WRONG_SIZES,
    dtypes: Mapping[str, np.dtype] | None = None,
) -> None:
    """Compare names, shapes and dtypes of a file's tensors with the table of a model.

    Args:
      path: of the file, or of a folder of several, for the message.
      shapes: of the file's tensors.
      table: of the model.
      advice: the message's last sentence: what to do.
      dtypes: of the file's tensors; given, each must be a floating-point dtype.

    Raises:
      UserError: they differ, or the weights are quantized; names the first tensors that differ.
    """
    for suffixes, program in QUANTIZED.items():
        if found := next((name for name in shapes if name.endswith(suffixes)), None):
            raise UserError(
                f"{path} is quantized by {program} ({found}), which cannot be read; give the"
                " weights in bfloat16, float16, float32 or float8."
            )
    problems = [f"{name} is missing" for name in table if name not in shapes]
    problems += [f"{name} is unexpected" for name in shapes if name not in table]
    problems += [
        f"{name} has shape {list(shapes[name])}, expected {list(entry.shape)}"
        for name, entry in table.items()
        if name in shapes and shapes[name] != entry.shape
    ]
    problems += [
        f"{name} is {dtype}, expected floating-point numbers"
        for name, dtype in (dtypes or {}).items()
        if not jnp.issubdtype(dtype, np.floating)
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(
            f"{path} does not fit the model's sizes: {'; '.join(problems[:3])}{more}. {advice}"
        )
