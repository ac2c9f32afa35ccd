"""Sizes of Qwen2.5-VL, read from the config.json of its Hugging Face folder."""

import dataclasses
from typing import Annotated, Any

from msgspec import Meta

from step1x_jax.bounds import Layers, Positive, TokenId, Vocabulary, Width
from step1x_jax.errors import UserError, require
from step1x_jax.json_files import build, check_fields

Side = Annotated[int, Meta(ge=1, le=4096)]  # pixels, patches or frames

MODEL_TYPE = "qwen2_5_vl"
TEXT_MODEL_TYPE = "qwen2_5_vl_text"  # in a nested text_config
VISION_MODEL_TYPES = (
    MODEL_TYPE,
    "qwen2_5_vl_vision",
)  # in vision_config: before and since transformers 4.52
ROPE_TYPES = (
    "mrope",
    "default",
)  # two names of one type; other types scale the positions for longer texts

# The values of absent fields: the defaults of transformers' classes. Folders that it saves may omit
# fields with default values, and the weights do not tell the number of heads or eps.
VISION_DEFAULTS = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 3584,
}
LANGUAGE_DEFAULTS = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}
IMAGE_TOKEN = 151655


@dataclasses.dataclass(frozen=True)  # part of the model's graph definition, which is a jit key
class VisionConfig:
    """Sizes of the vision tower. Defaults are of Qwen2.5-VL-7B, names are Hugging Face's."""

    depth: Layers = 32
    hidden_size: Width = 1280
    intermediate_size: Width = 3420
    num_heads: Width = 16
    in_channels: Annotated[int, Meta(ge=1, le=64)] = 3
    patch_size: Side = 14  # pixels along one side of a patch
    temporal_patch_size: Side = 2  # frames in a patch; a still image is repeated
    spatial_merge_size: Side = 2  # patches along one side of a merged token
    window_size: Side = 112  # pixels along one side of a window
    fullatt_block_indexes: tuple[int, ...] = (
        7,
        15,
        23,
        31,
    )  # blocks with full attention; the others attend within windows
    out_hidden_size: Width = 3584
    rope_theta: Positive = 10_000.0

    def __post_init__(self) -> None:
        # JSON gives a list, which is not hashable.
        object.__setattr__(self, "fullatt_block_indexes", tuple(self.fullatt_block_indexes))

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def patch_width(self) -> int:
        """Values in one patch: channels * frames * pixels."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches that are merged into one token."""
        return self.spatial_merge_size**2

    @property
    def window_side(self) -> int:
        """Merged tokens along one side of a window."""
        return self.window_size // self.spatial_merge_size // self.patch_size


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Sizes of the language model. Defaults are of Qwen2.5-VL-7B, names are Hugging Face's."""

    vocab_size: Vocabulary = 152064
    hidden_size: Width = 3584
    intermediate_size: Width = 18944
    num_hidden_layers: Layers = 28
    num_attention_heads: Width = 28
    num_key_value_heads: Width = 4
    rms_norm_eps: Annotated[float, Meta(gt=0, le=1)] = 1e-6
    rope_theta: Positive = 1_000_000.0
    mrope_section: tuple[Width, ...] = (16, 24, 24)  # frequencies of time, row, column

    def __post_init__(self) -> None:
        object.__setattr__(self, "mrope_section", tuple(self.mrope_section))  # as above

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclasses.dataclass(frozen=True)
class MLLMConfig:
    """Both networks, their dtypes, and the id of the tokens that stand for an image."""

    vision: VisionConfig = VisionConfig()
    language: LanguageConfig = LanguageConfig()
    image_token_id: TokenId = IMAGE_TOKEN
    dtype: str = "bfloat16"
    param_dtype: str = "bfloat16"

    def validate(self) -> None:
        """Raise UserError for sizes that are out of bounds or do not match each other."""
        check_fields(self, "the language model's config")
        vision, language = self.vision, self.language
        for part, config, heads in (
            ("vision_config", vision, vision.num_heads),
            ("the language model's", language, language.num_attention_heads),
        ):
            require(
                config.hidden_size % heads == 0,
                f"{part} hidden_size",
                config.hidden_size,
                f"use a multiple of its {heads} heads",
            )
        require(
            language.num_attention_heads % language.num_key_value_heads == 0,
            "num_key_value_heads",
            language.num_key_value_heads,
            f"use a divisor of num_attention_heads {language.num_attention_heads}",
        )
        require(
            vision.head_dim % 4 == 0,
            "vision_config num_heads",
            vision.num_heads,
            "use one that makes the head width a multiple of 4",
        )
        sections = language.mrope_section
        require(
            len(sections) == 3 and 2 * sum(sections) == language.head_dim,
            "mrope_section",
            sections,
            f"use three numbers whose sum is half the head width {language.head_dim}",
        )
        require(
            vision.out_hidden_size == language.hidden_size,
            "vision_config out_hidden_size",
            vision.out_hidden_size,
            f"use the language model's hidden_size {language.hidden_size}",
        )
        require(
            vision.window_side > 0,
            "vision_config window_size",
            vision.window_size,
            "use at least the number of pixels of one merged token",
        )
        require(
            self.image_token_id < language.vocab_size,
            "image_token_id",
            self.image_token_id,
            f"use an id below vocab_size {language.vocab_size}",
        )
        for name in ("dtype", "param_dtype"):
            dtype = getattr(self, name)
            require(dtype in ("float32", "bfloat16"), name, dtype, "use 'float32' or 'bfloat16'")


def mllm_from_json(values: dict[str, Any], source: str) -> MLLMConfig:
    """Read the sizes from a Hugging Face config.json.

    Both formats are supported: that of the release (the language model's fields at the top level)
    and the newer one (text_config). Absent fields have the defaults of transformers.

    Args:
      values: the file's content.
      source: the file's name, for error messages.

    Returns:
      The sizes, with the default dtypes.

    Raises:
      UserError: the file describes another model or an unsupported variant of this one, or its
        sizes do not match each other.
    """
    text = _get_section(values, "text_config", source) if "text_config" in values else values
    vision = _get_section(values, "vision_config", source)
    _check_model_type(values, text, vision, source)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"{source}: the RoPE parameters must be a JSON object; replace the file.")
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise UserError(
            f"{source} has rope_type {rope_type!r}, which is for longer texts than instructions and"
            " is not supported; remove that setting."
        )

    language_fields = {
        name: text[name] if text.get(name) is not None else default
        for name, default in LANGUAGE_DEFAULTS.items()
    }
    language_fields["rope_theta"] = rope.get("rope_theta", text.get("rope_theta", 1e6))
    language_fields["mrope_section"] = rope.get("mrope_section", [16, 24, 24])
    old_names = {"in_channels": vision["in_chans"]} if "in_chans" in vision else {}
    vision_fields = {
        name: (old_names | vision).get(name, default) for name, default in VISION_DEFAULTS.items()
    }
    vision_rope = _get_section(vision, "rope_parameters", source)
    vision_fields["rope_theta"] = vision_rope.get("rope_theta", 1e4)
    config = MLLMConfig(
        vision=build(VisionConfig, vision_fields, source, "vision_config"),
        language=build(LanguageConfig, language_fields, source),
        image_token_id=build(
            TokenId, values.get("image_token_id", IMAGE_TOKEN), source, "image_token_id"
        ),
    )
    try:
        config.validate()
    except UserError as e:
        raise UserError(f"{source}: {e}") from e
    return config


def _get_section(values: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    section = values.get(name)
    section = {} if section is None else section
    if not isinstance(section, dict):
        raise UserError(f"{source}: {name} must be a JSON object; replace the file.")
    return section


def _check_model_type(
    values: dict[str, Any], text: dict[str, Any], vision: dict[str, Any], source: str
) -> None:
    """Raise UserError for another architecture, or for settings that no release has."""
    kinds = (
        (values.get("model_type"), (MODEL_TYPE,)),
        (text.get("model_type", TEXT_MODEL_TYPE), (MODEL_TYPE, TEXT_MODEL_TYPE)),
        (vision.get("model_type", MODEL_TYPE), VISION_MODEL_TYPES),
    )
    for kind, known in kinds:
        if kind not in known:
            raise UserError(
                f"{source} describes a model of type {kind!r}, not {MODEL_TYPE!r}; give the folder"
                " of a Qwen2.5-VL model."
            )
    for section in (text, vision):
        if section.get("hidden_act", "silu") != "silu":
            raise UserError(
                f"{source} has hidden_act {section['hidden_act']!r}, but Qwen2.5-VL uses 'silu';"
                " give the folder of a Qwen2.5-VL model."
            )
    if text.get("use_sliding_window"):
        raise UserError(
            f"{source} has use_sliding_window, which is not supported; give the folder of a"
            " released Qwen2.5-VL model."
        )
