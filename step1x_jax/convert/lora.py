"""LoRA files in kohya's form (ComfyUI, the published fine-tuning): read, checked and merged.

A module `double_blocks.0.img_attn.qkv` is stored as `lora_unet_double_blocks_0_img_attn_qkv` with
`.lora_down.weight` (rank, in), `.lora_up.weight` (out, rank) and `.alpha`.
"""

import numpy as np
from etils import epath

from step1x_jax.convert.keys import Table
from step1x_jax.convert.safetensors_io import Read, SafetensorsFile
from step1x_jax.errors import UserError

PREFIX = "lora_unet_"
SUFFIXES = (".lora_down.weight", ".lora_up.weight", ".alpha")


def kohya_name(module: str) -> str:
    """The kohya name of a published module."""
    return PREFIX + module.replace(".", "_")


class KohyaLora:
    """An open LoRA file whose every tensor is known to belong to a module of the model."""

    def __init__(self, path: epath.PathLike, table: Table):
        """Reads the header and matches it with the model.

        Args:
          path: the .safetensors file.
          table: official names and shapes of the model.

        Raises:
          UserError: a tensor belongs to no module, has a wrong shape, or its partner is missing.
        """
        self.file = SafetensorsFile(path)
        shapes = self.file.shapes
        modules = {
            kohya_name(name.removesuffix(".weight")): name
            for name, entry in table.items()
            if name.endswith(".weight") and len(entry.shape) == 2
        }
        self.module_of: dict[str, str] = {}  # official weight -> kohya module
        for key in shapes:
            suffix = next((s for s in SUFFIXES if key.endswith(s)), None)
            module = key.removesuffix(suffix or "")
            if suffix is None or module not in modules:
                raise UserError(f"{path}: {key} belongs to no linear layer of this model.")
            self.module_of[modules[module]] = module
        for name, module in self.module_of.items():
            self._check(module, table[name].shape)

    def _check(self, module: str, shape: tuple[int, ...]) -> None:
        shapes = self.file.shapes
        down, up, alpha = (shapes.get(module + suffix) for suffix in SUFFIXES)
        if down is None or up is None or alpha is None:
            raise UserError(f"{self.file.path}: {module} needs {', '.join(SUFFIXES)}; fetch again.")
        if down[1:] != shape[1:] or up[:1] != shape[:1] or down[0] != up[-1] or alpha != ():
            raise UserError(
                f"{self.file.path}: {module} has down {list(down)} and up {list(up)}, which do not"
                f" fit a weight of {list(shape)}; it was made for another model."
            )

    def merged_into(self, read: Read, scale: float = 1.0) -> Read:
        """A reader of official tensors that adds scale * alpha / rank * up @ down.

        The sum is float32, the result has the tensor's dtype.

        Args:
          read: gives the base tensors by official name.
          scale: strength of the LoRA.
        """

        def merged(name: str, rows: np.ndarray | None = None) -> np.ndarray:
            base = read(name, rows)
            if name not in self.module_of:
                return base
            down, up, alpha = (
                self.file.read(self.module_of[name] + suffix).astype(np.float32)
                for suffix in SUFFIXES
            )
            delta = scale * alpha / down.shape[0] * (up @ down)
            # all of it first: a product of some rows may be rounded in another order
            delta = delta if rows is None else delta[rows]
            return (base.astype(np.float32) + delta).astype(base.dtype)

        return merged
