"""--ema, --lora, --lora_scale: which weights of a run, and what is merged into a model."""

from absl import flags

from step1x_jax.errors import UserError
from step1x_jax.files import user_path

EMA = flags.DEFINE_bool(
    "ema", False, "For a run: take the moving average of what it trained (optimizer.ema_decay)."
)
LORA = flags.DEFINE_multi_string(
    "lora",
    [],
    "LoRA to merge into the model: a file or folder of any format, or a run of adapters.",
)
_SCALE = flags.DEFINE_multi_float("lora_scale", [1.0], "Strength of all LoRAs, or of each.")


def loras() -> list[tuple[str, float]]:
    """Return each --lora with its strength."""
    scales = _SCALE.value * (len(LORA.value) if len(_SCALE.value) == 1 else 1)
    if len(scales) != len(LORA.value):
        raise UserError(f"there are {len(LORA.value)} --lora and {len(scales)} --lora_scale.")
    return [(user_path(path), scale) for path, scale in zip(LORA.value, scales, strict=True)]
