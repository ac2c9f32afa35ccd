"""Sizes and precisions of the models, with presets for the releases."""

import dataclasses
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from step1x_jax import choices
from step1x_jax.bounds import Layers, Positive, Tokens, Width
from step1x_jax.errors import UserError, require
from step1x_jax.json_files import check_fields

VERSIONS = ("v1.0", "v1.1")
Multiplier = Annotated[int, Meta(ge=1, le=64)]


def _check_dtypes(config, *names: str) -> None:
    for name in names:
        if getattr(config, name) not in ("float32", "bfloat16"):
            value = f"{getattr(config, name)!r}; use 'float32' or 'bfloat16'."
            raise UserError(f"model.{name} is {value}")


@dataclasses.dataclass(unsafe_hash=True)  # a model's graph holds a copy and is a jit key
class Architecture:
    """What the weights are of: sizes of connector and diffusion transformer (DiT), as published.

    `version` decides what differs between the releases: v1.0 scales the connector's pooled text by
    a learned scalar and gives reference tokens the noise tokens' positions; v1.1 shifts them by one
    on all three axes and can do without a reference.

    `attend_to_padding` is how the releases were trained: the DiT sees all `text_length` text
    tokens. False masks the padding (a choice for training from scratch).
    """

    version: str = "v1.1"
    in_channels: Width = 64
    hidden_size: Width = 3072
    num_heads: Width = 24
    axes_dim: tuple[Width, ...] = (16, 56, 56)
    theta: Positive = 10_000.0
    depth: Layers = 19
    depth_single_blocks: Layers = 38
    mlp_ratio: Annotated[float, Meta(gt=0, le=64)] = 4.0
    vec_in_dim: Width = 768
    context_in_dim: Width = 4096
    connector_in_channels: Width = 3584
    connector_hidden_size: Width = 4096
    connector_heads: Width = 32
    connector_depth: Layers = 2
    text_length: Tokens = 640
    attend_to_padding: bool = True

    def __post_init__(self) -> None:
        self.axes_dim = tuple(self.axes_dim)  # JSON and notebooks give lists, which do not hash

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the DiT."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the DiT's MLPs."""
        return int(self.hidden_size * self.mlp_ratio)


@dataclasses.dataclass(unsafe_hash=True)
class ModelConfig(Architecture):
    """An architecture, and how its weights begin and are computed with.

    `gate_init` and `qk_bias_init` only shape random weights: the value at which the residual gates
    start (published: 0) and the bias of q and k (with a low `theta`, positive values make a query
    look at its own place in the reference from the first step on).

    `dtype` is that of the arithmetic, `param_dtype` that of the parameters.

    `remat` is what of a block's forward pass is saved for the backward pass (choices.py REMAT).

    `attention` is what computes it: one of choices.py ATTENTION, or "auto", which takes what the
    environment's STEP1X_ATTENTION names, or else the best that runs where the model does.
    """

    gate_init: float = 0.0
    qk_bias_init: float = 0.0
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def validate(self) -> None:
        """Raises UserError for sizes out of bounds, or that do not fit together."""
        check_fields(self, "the config", "model")
        if self.version not in VERSIONS:
            raise UserError(f"model.version is {self.version!r}; use one of {', '.join(VERSIONS)}.")
        if self.remat not in choices.REMAT:
            raise UserError(
                f"model.remat is {self.remat!r}; use one of {', '.join(choices.REMAT)}."
            )
        names = "auto", *choices.ATTENTION
        advice = f"use one of {', '.join(names)}"
        require(self.attention in names, "model.attention", self.attention, advice)
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"model.hidden_size {self.hidden_size} is no multiple of num_heads"
                f" {self.num_heads}; change one of them."
            )
        three_even = len(self.axes_dim) == 3 and not any(d % 2 for d in self.axes_dim)
        if sum(self.axes_dim) != self.head_dim or not three_even:
            raise UserError(
                f"model.axes_dim {self.axes_dim} must be three even numbers that add up to"
                f" the head width {self.head_dim}."
            )
        if self.connector_hidden_size % self.connector_heads:
            raise UserError(
                f"model.connector_hidden_size {self.connector_hidden_size} is no multiple of"
                f" connector_heads {self.connector_heads}; change one of them."
            )
        if self.connector_hidden_size != self.context_in_dim:
            raise UserError(
                f"model.context_in_dim {self.context_in_dim} must equal connector_hidden_size"
                f" {self.connector_hidden_size}: the connector's tokens feed txt_in."
            )
        _check_dtypes(self, "dtype", "param_dtype")


@dataclasses.dataclass
class LoraConfig:
    """Low-rank adapters (models/lora.py); the published ones have rank 64 and alpha 32."""

    rank: Annotated[int, Meta(ge=0, le=1 << 16)] = 0  # 0: no adapters, all parameters are trained
    alpha: Positive = 32.0  # alpha / rank scales what an adapter adds
    # Patterns over published names such as single_blocks.0.linear1; "connector.*" is another.
    # They take all layers of a kind or none.
    targets: tuple[str, ...] = ("double_blocks.*", "single_blocks.*")
    # A LoRA file or folder, or a run of adapters, whose adapters are the first ones; "": new ones.
    start_from: str = ""
    quantize: str = "none"  # or "int8", "fp8": how the frozen kernels of the blocks are stored

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        require(self.rank >= 0, "lora.rank", self.rank, "use 0 (no adapters) or more")
        require(self.alpha > 0, "lora.alpha", self.alpha, "use a positive number")
        require(bool(self.targets), "lora.targets", self.targets, "name at least one pattern")
        names = ("none", *choices.EIGHT_BITS)
        advice = f"use one of {', '.join(names)}"
        require(self.quantize in names, "lora.quantize", self.quantize, advice)
        for field in ("quantize", "start_from"):
            value = getattr(self, field)
            fine = self.rank > 0 or value in ("none", "")
            require(fine, f"lora.{field}", value, "it needs adapters: set lora.rank, too")


@dataclasses.dataclass(unsafe_hash=True)  # a model's graph holds a copy and is a jit key
class AutoencoderConfig:
    """The FLUX autoencoder: 8x down (for four multipliers), `z_channels` latent channels.

    latent = scale_factor * (mean - shift_factor). Always run in float32, as published.
    """

    ch: Width = 128
    ch_mult: Annotated[tuple[Multiplier, ...], Meta(min_length=1, max_length=8)] = (1, 2, 4, 4)
    num_res_blocks: Annotated[int, Meta(ge=1, le=4)] = 2
    z_channels: Width = 16
    scale_factor: Positive = 0.3611
    shift_factor: float = 0.1159
    norm_groups: Width = 32

    def __post_init__(self) -> None:
        self.ch_mult = tuple(self.ch_mult)  # as above

    def validate(self) -> None:
        """Raises UserError for sizes out of bounds, or that do not fit together."""
        check_fields(self, "the config", "autoencoder")
        for multiplier in self.ch_mult:
            if (self.ch * multiplier) % self.norm_groups:
                raise UserError(
                    f"autoencoder width {self.ch * multiplier} is no multiple of norm_groups"
                    f" {self.norm_groups}; change ch, ch_mult or norm_groups."
                )


def step1x_edit_v1_0() -> ModelConfig:
    """The first release, step1x-edit-i1258.safetensors."""
    return ModelConfig(version="v1.0")


def step1x_edit_v1_1() -> ModelConfig:
    """The second release, step1x-edit-v1p1-official.safetensors."""
    return ModelConfig(version="v1.1")


def quickstart() -> ModelConfig:
    """About 4 M parameters; learns ten edits of photographs in minutes on two CPU cores."""
    return ModelConfig(
        version="v1.0",
        hidden_size=192,
        num_heads=6,
        axes_dim=(4, 14, 14),
        theta=10.0,
        depth=1,
        depth_single_blocks=3,
        vec_in_dim=96,
        context_in_dim=128,
        connector_in_channels=128,
        connector_hidden_size=128,
        connector_heads=4,
        connector_depth=1,
        text_length=64,
        attend_to_padding=False,
        gate_init=0.5,
        qk_bias_init=1.0,
        dtype="float32",
    )


def tiny() -> ModelConfig:
    """A few thousand parameters, for tests."""
    return ModelConfig(
        hidden_size=32,
        num_heads=2,
        axes_dim=(4, 6, 6),
        depth=1,
        depth_single_blocks=2,
        vec_in_dim=16,
        context_in_dim=32,
        connector_in_channels=24,
        connector_hidden_size=32,
        connector_heads=2,
        connector_depth=1,
        text_length=8,
        dtype="float32",
    )


# Tests run over all of them; a config of configs/ calls the function.
PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "step1x_edit_v1_0": step1x_edit_v1_0,
    "step1x_edit_v1_1": step1x_edit_v1_1,
    "quickstart": quickstart,
    "tiny": tiny,
}


def quickstart_autoencoder() -> AutoencoderConfig:
    """About 2.8 M parameters; its weights ship in step1x_jax/assets/quickstart/autoencoder."""
    return AutoencoderConfig(
        ch=16,
        ch_mult=(1, 2, 4, 8),
        num_res_blocks=1,
        scale_factor=1.0,
        shift_factor=0.0,
        norm_groups=8,
    )
