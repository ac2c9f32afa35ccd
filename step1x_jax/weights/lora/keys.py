"""What the keys of LoRA files say: which layer, which half of it, of which model."""

from collections.abc import Container

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
# What comes before a layer's halves, and which of them it is; maybe an adapter's name follows.
HALVES = {
    ".lora_A": DOWN, ".lora_B": UP, ".lora_down": DOWN, ".lora_up": UP,
    ".lora.down": DOWN, ".lora.up": UP,
    ".lora_linear_layer.down": DOWN, ".lora_linear_layer.up": UP,
}  # fmt: skip
WEIGHT = ".weight"
# What says of which of several models a layer is, or is a trainer's own.
PREFIXES = (
    "base_model.model.", "transformer.", "diffusion_model.", "model.", "unet.", "dit.", "module.",
    "_orig_mod.", "pipe.", "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
TEXT_ENCODERS = (
    "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_text_", "lora_clip_", "lora_t5",
    "lora_llm", "text_encoder.", "text_encoder_2.", "text_encoder_3.", "text_encoders.",
    "text_model.", "conditioner.", "cond_stage_model.", "clip_l.", "clip_g.", "t5xxl.", "te1.",
    "te2.",
)  # fmt: skip


def key_parts(key: str) -> tuple[str, str, str | None] | None:
    """A tensor's layer, which half or alpha it is, and its adapter's name, if the key has one."""
    if key.endswith(ALPHA):
        return key.removesuffix(ALPHA), ALPHA, None
    stem = key.removesuffix(WEIGHT)
    for suffix, half in HALVES.items():
        if stem.endswith(suffix):
            return stem.removesuffix(suffix), half, None
        layer, found, adapter = stem.rpartition(suffix + ".")
        if found and adapter and "." not in adapter and stem != key:
            return layer, half, adapter
    return None


def layer_of(key: str) -> str:
    """The layer of a half or an alpha, as the file calls it."""
    parts = key_parts(key)
    assert parts is not None  # it has been taken for a half
    return parts[0]


def bare(layer: str, names: Container[str]) -> str:
    """A layer's name without what says of which of several models it is."""
    stripped = True
    while stripped and layer not in names:
        stripped = False
        for prefix in PREFIXES:
            if layer.startswith(prefix):
                layer, stripped = layer.removeprefix(prefix), True
    return layer
