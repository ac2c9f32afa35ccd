"""Detects the format of a weight file from the names of its tensors.

`FORMATS` can be opened. Other formats that occur are recognized only to be refused by name.
"""

import dataclasses
import re
from collections.abc import Sequence

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.weights.files.opening import PREFIXES
from step1x_jax.weights.readers import Tensors


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of weights.

    Attributes:
      title: its name for users.
      key_patterns: regular expressions; each of them matches the name of some tensor.
      component: what the file holds: "model" (connector and DiT), "autoencoder", "flux" or
        "adapters".
      diffusers: the tensors have diffusers' names.
    """

    title: str
    key_patterns: tuple[str, ...]
    component: str
    diffusers: bool = False


RUN = Format("a run's folder", (), "model")
# Tried in this order.
FORMATS = {
    # after the half there may be the name of an adapter, and .weight
    "kohya": Format("LoRA in kohya's format", (r"\.lora_down(\.[^.]+){0,2}$",), "adapters"),
    "peft": Format("LoRA in PEFT's format", (r"\.lora_A(\.[^.]+){0,2}$",), "adapters"),
    "lora_diffusers": Format(
        "LoRA in diffusers' older format",
        (r"\.lora(_linear_layer)?\.down(\.[^.]+){0,2}$",),
        "adapters",
    ),
    "official": Format("Step1X-Edit, official", (r"^double_blocks\.0\.", r"^connector\."), "model"),
    "diffusers": Format(
        "Step1X-Edit, diffusers", (r"^transformer_blocks\.0\.", r"^connector\."), "model", True
    ),
    "flux": Format("FLUX.1, official", (r"^double_blocks\.0\.", r"^img_in\."), "flux"),
    "flux_diffusers": Format(
        "FLUX.1, diffusers", (r"^transformer_blocks\.0\.", r"^x_embedder\."), "flux", True
    ),
    "autoencoder": Format("autoencoder, official", (r"^decoder\.up\.0\.",), "autoencoder"),
    "autoencoder_diffusers": Format(
        "autoencoder, diffusers", (r"^decoder\.up_blocks\.0\.",), "autoencoder", True
    ),
}


# Adapters that are not LoRAs, by suffixes of their tensors' names.
OTHER_ADAPTERS = {
    (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"): "DoRA",
    (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".hada_t1", ".hada_t2"): "LoHa",
    (
        ".lokr_w1", ".lokr_w2", ".lokr_w1_a", ".lokr_w1_b", ".lokr_w2_a", ".lokr_w2_b", ".lokr_t2",
    ): "LoKr",
    (".oft_blocks", ".oft_diag", ".oft_R", ".oft_R.weight"): "OFT",
    (".boft_R", ".boft_s"): "BOFT",
    (".ia3_l", ".on_input"): "IA3",
    (".vera_lambda_b", ".vera_lambda_d"): "VeRA",
    (".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"): "GLoRA",
    (".lora_mid.weight",): "LoCon in Tucker form",
    (".diff", ".diff_b", ".set_weight"): "difference of full weights",
}  # fmt: skip


def other_adapter(name: str) -> str | None:
    """Return which type of adapter a tensor's name indicates; None: a LoRA or no adapter."""
    for suffixes, title in OTHER_ADAPTERS.items():
        if name.endswith(suffixes):
            return title
    return None


# Unsupported models, tried before those of FORMATS: title, key patterns as in Format, advice.
_WRONG = "give the weights of Step1X-Edit"
UNSUPPORTED = (
    ("Step1X-Edit v1p2", (r"^text_token_mapping\.",),
     "its prompts, positions and sampling differ: give v1.0 or v1.1"),
    ("Qwen2.5-VL, the language model", (r"(^|\.)visual\.blocks\.",),
     "give its folder as --text_encoder, and the weights of Step1X-Edit as the model"),
    ("T5 or CLIP", (r"^(encoder\.block|text_model\.encoder\.layers)\.0\.",), _WRONG),
    ("Stable Diffusion", (r"(^|\.)input_blocks\.0\.",), _WRONG),
    ("Stable Diffusion", (r"^down_blocks\.0\.", r"^time_embedding\."), _WRONG),
    ("Stable Diffusion 3", (r"(^|\.)joint_blocks\.0\.",), _WRONG),
    ("FLUX.2", (r"^double_stream_modulation_img\.",), _WRONG),
    ("Chroma", (r"^distilled_guidance_layer\.",), _WRONG),
    ("Qwen-Image", (r"^transformer_blocks\.0\.img_mod\.",), _WRONG),
    ("Wan", (r"^blocks\.0\.(cross_attn|attn2)\.", r"^patch_embedding\."), _WRONG),
    ("HunyuanVideo", (r"^txt_in\.individual_token_refiner\.",), _WRONG),
    ("HunyuanVideo", (r"^context_embedder\.token_refiner\.",), _WRONG),
)  # fmt: skip


def detect_format(tensors: Tensors, path: epath.PathLike) -> Format:
    """Return the format of a reader's tensors.

    Args:
      tensors: the reader; only its names are used.
      path: of the file, for messages.

    Raises:
      UserError: the format is unknown, or known and not supported.
    """
    found = next((x for x in FORMATS.values() if _has(x.key_patterns, tensors)), None)
    if found is not None and found.component == "adapters":
        return found
    for title, patterns, advice in UNSUPPORTED:
        if _has(patterns, tensors):
            raise UserError(f"{path} is of {title}, which cannot be used here; {advice}.")
    if found is not None:
        return found
    for title in filter(None, map(other_adapter, tensors.shapes)):
        raise UserError(
            f"{path} is a {title} adapter, but only LoRAs can be read; merge it into"
            " its model with the program that made it, and give the model."
        )
    if not tensors.shapes:
        raise UserError(f"{path} holds no tensors; give a file with weights.")
    first = "; ".join(sorted(tensors.shapes)[:3])
    if any(name.startswith(f"{PREFIXES[0]}double_blocks.") for name in tensors.shapes):
        raise UserError(
            f"{path} holds several models ({first}; ...); save only its tensors {PREFIXES[0]}*,"
            " with the program that made it."
        )
    raise UserError(
        f"{path} has an unknown format: its tensors are {first}; ...; known formats are"
        f" {'; '.join(known.title for known in FORMATS.values())}."
    )


def _has(patterns: Sequence[str], tensors: Tensors) -> bool:
    """Return whether each pattern matches the name of some tensor."""
    return all(any(re.search(pattern, name) for name in tensors.shapes) for pattern in patterns)
