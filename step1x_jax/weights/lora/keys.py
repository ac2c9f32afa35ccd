"""Parses the keys of LoRA files: which layer, which half of it, of which model."""

from collections.abc import Container

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
# Suffix of a layer's name -> which half it is. An adapter's name may follow the suffix.
HALVES = {
    ".lora_A": DOWN, ".lora_B": UP, ".lora_down": DOWN, ".lora_up": UP,
    ".lora.down": DOWN, ".lora.up": UP,
    ".lora_linear_layer.down": DOWN, ".lora_linear_layer.up": UP,
}  # fmt: skip
WEIGHT = ".weight"
# Prefixes that say which of several models a layer is in, or that trainers add.
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


def parse_key(key: str) -> tuple[str, str, str | None] | None:
    """Return a key's layer, half (or ALPHA) and adapter's name (or None); None: not a LoRA's."""
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
    """Return the layer of a half or an alpha, as named in the file."""
    parts = parse_key(key)
    assert parts is not None  # the caller has parsed the key
    return parts[0]


def strip_prefixes(layer: str, names: Container[str]) -> str:
    """Remove prefixes that say which of several models a layer is in, until the name is in
    `names`.
    """
    stripped = True
    while stripped and layer not in names:
        stripped = False
        for prefix in PREFIXES:
            if layer.startswith(prefix):
                layer, stripped = layer.removeprefix(prefix), True
    return layer
