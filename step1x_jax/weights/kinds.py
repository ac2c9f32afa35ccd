"""What a file or folder of weights is, told by the names of its tensors.

`KINDS` are those that can be opened; what else occurs is named where it is refused.
"""

import dataclasses
import re
from collections.abc import Sequence

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.weights.files.opening import PREFIXES
from step1x_jax.weights.readers import Tensors


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind: what it is called, how it is told, and what it holds."""

    title: str
    marks: tuple[str, ...]  # patterns, each of which some tensor's name matches
    holds: str  # "model", "autoencoder", "flux" or "adapters"
    diffusers: bool = False


RUN = Kind("a run's folder", (), "model")
# In the order in which they are tried.
KINDS = {
    # behind a half there may be the name of an adapter, and .weight
    "kohya": Kind("LoRA in kohya's form", (r"\.lora_down(\.[^.]+){0,2}$",), "adapters"),
    "peft": Kind("LoRA in PEFT's form", (r"\.lora_A(\.[^.]+){0,2}$",), "adapters"),
    "lora_diffusers": Kind(
        "LoRA in diffusers' older form",
        (r"\.lora(_linear_layer)?\.down(\.[^.]+){0,2}$",),
        "adapters",
    ),
    "official": Kind("Step1X-Edit, official", (r"^double_blocks\.0\.", r"^connector\."), "model"),
    "diffusers": Kind(
        "Step1X-Edit, diffusers", (r"^transformer_blocks\.0\.", r"^connector\."), "model", True
    ),
    "flux": Kind("FLUX.1, official", (r"^double_blocks\.0\.", r"^img_in\."), "flux"),
    "flux_diffusers": Kind(
        "FLUX.1, diffusers", (r"^transformer_blocks\.0\.", r"^x_embedder\."), "flux", True
    ),
    "autoencoder": Kind("autoencoder, official", (r"^decoder\.up\.0\.",), "autoencoder"),
    "autoencoder_diffusers": Kind(
        "autoencoder, diffusers", (r"^decoder\.up_blocks\.0\.",), "autoencoder", True
    ),
}


# Adapters that are no LoRA, by endings of their tensors' names.
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
    (".diff", ".diff_b", ".set_weight"): "difference of whole weights",
}  # fmt: skip


def other_adapter(name: str) -> str | None:
    """What kind of adapter, LoRA aside, a tensor of this name belongs to; None if to none."""
    for endings, title in OTHER_ADAPTERS.items():
        if name.endswith(endings):
            return title
    return None


# Models that cannot be used here, tried first: title, marks as of a Kind, what to do.
_WRONG = "give the weights of Step1X-Edit"
UNUSABLE = (
    ("Step1X-Edit v1p2", (r"^text_token_mapping\.",),
     "its prompts, positions and sampling are others: give v1.0 or v1.1"),
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


def kind_of(tensors: Tensors, path: epath.PathLike) -> Kind:
    """Which of KINDS.

    Raises:
      UserError: of no known kind.
    """
    found = next((kind for kind in KINDS.values() if _has(kind.marks, tensors)), None)
    if found is not None and found.holds == "adapters":
        return found
    for title, marks, advice in UNUSABLE:
        if _has(marks, tensors):
            raise UserError(f"{path} is of {title}, which cannot be used here; {advice}.")
    if found is not None:
        return found
    for title in filter(None, map(other_adapter, tensors.shapes)):
        raise UserError(
            f"{path} is an adapter of the kind {title}, and only LoRAs can be read; merge it into"
            " its model with the program that made it, and give the model."
        )
    if not tensors.shapes:
        raise UserError(f"{path} holds no tensors; give a file with weights.")
    first = "; ".join(sorted(tensors.shapes)[:3])
    if any(name.startswith(f"{PREFIXES[0]}double_blocks.") for name in tensors.shapes):
        raise UserError(
            f"{path} is a checkpoint of several models in one ({first}; ...); save its tensors"
            f" {PREFIXES[0]}* alone, with the program that made it."
        )
    raise UserError(
        f"{path} is of no known kind: its tensors are {first}; ...; known are"
        f" {'; '.join(kind.title for kind in KINDS.values())}."
    )


def _has(marks: Sequence[str], tensors: Tensors) -> bool:
    """Whether each of the patterns is in the name of some tensor."""
    return all(any(re.search(mark, name) for name in tensors.shapes) for mark in marks)
