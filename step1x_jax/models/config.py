"""Sizes and dtypes of the models, with presets for the releases."""

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


@dataclasses.dataclass(frozen=True)  # part of the model's graph definition, which is a jit key
class Architecture:
    """The architecture: sizes of connector and diffusion transformer (DiT), as published.

    `version` selects what differs between the releases. v1.0 scales the connector's pooled text by
    a learned scalar and gives reference tokens the same positions as noise tokens. v1.1 shifts the
    reference positions by one on all three axes, and the reference is optional.

    `attend_to_padding` is True in the releases: the DiT attends to all `text_length` text tokens.
    False masks the padding, an option for training from scratch.
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
        # JSON and notebooks give lists, which are not hashable.
        object.__setattr__(self, "axes_dim", tuple(self.axes_dim))

    @property
    def head_dim(self) -> int:
        """Width of an attention head of the DiT."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the DiT's MLPs."""
        return int(self.hidden_size * self.mlp_ratio)


@dataclasses.dataclass(frozen=True)
class ModelConfig(Architecture):
    """An architecture, with the initialization of its weights and how it is computed.

    `gate_init` and `qk_bias_init` affect random weights only: the initial value of the residual
    gates (published: 0), and the initial bias of q and k. With a low `theta`, positive biases make
    a query attend to its own position in the reference from the first step on.

    `dtype` is the dtype of the computation, `param_dtype` that of the parameters.

    `remat` is the rematerialization policy of the blocks: which intermediates are saved for the
    backward pass (REMAT in choices.py).

    `attention` is the implementation of attention: one of ATTENTION in choices.py, or "auto", which
    takes the one named by the environment variable STEP1X_ATTENTION, or else the best one on the
    model's platform.
    """

    gate_init: float = 0.0
    qk_bias_init: float = 0.0
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def validate(self) -> None:
        """Raise UserError for sizes that are out of bounds or do not match each other."""
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
                f"model.hidden_size {self.hidden_size} is not a multiple of num_heads"
                f" {self.num_heads}; change one of them."
            )
        three_even = len(self.axes_dim) == 3 and not any(d % 2 for d in self.axes_dim)
        if sum(self.axes_dim) != self.head_dim or not three_even:
            raise UserError(
                f"model.axes_dim {self.axes_dim} must be three even numbers whose sum is"
                f" the head width {self.head_dim}."
            )
        if self.connector_hidden_size % self.connector_heads:
            raise UserError(
                f"model.connector_hidden_size {self.connector_hidden_size} is not a multiple of"
                f" connector_heads {self.connector_heads}; change one of them."
            )
        if self.connector_hidden_size != self.context_in_dim:
            raise UserError(
                f"model.context_in_dim {self.context_in_dim} must equal connector_hidden_size"
                f" {self.connector_hidden_size}: the connector's tokens feed txt_in."
            )
        _check_dtypes(self, "dtype", "param_dtype")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (models/lora.py); the published ones have rank 64 and alpha 32."""

    rank: Annotated[int, Meta(ge=0, le=1 << 16)] = 0  # 0: no adapters; all parameters are trained
    alpha: Positive = 32.0  # an adapter's output is scaled by alpha / rank
    # Patterns over published names such as single_blocks.0.linear1; "connector.*" also works. A
    # pattern must match a layer in all blocks or in none.
    targets: tuple[str, ...] = ("double_blocks.*", "single_blocks.*")
    # A LoRA file or folder, or a LoRA run, from which the adapters start; "": new adapters.
    start_from: str = ""
    quantize: str = "none"  # or "int8", "fp8": how the blocks' frozen kernels are stored

    def validate(self) -> None:
        """Raise UserError, with the field's name, for invalid values."""
        require(self.rank >= 0, "lora.rank", self.rank, "use 0 (no adapters) or more")
        require(self.alpha > 0, "lora.alpha", self.alpha, "use a positive number")
        require(bool(self.targets), "lora.targets", self.targets, "name at least one pattern")
        names = ("none", *choices.EIGHT_BITS)
        advice = f"use one of {', '.join(names)}"
        require(self.quantize in names, "lora.quantize", self.quantize, advice)
        for field in ("quantize", "start_from"):
            value = getattr(self, field)
            fine = self.rank > 0 or value in ("none", "")
            require(fine, f"lora.{field}", value, "it needs adapters: also set lora.rank")


@dataclasses.dataclass(frozen=True)  # part of the model's graph definition, which is a jit key
class AutoencoderConfig:
    """The FLUX autoencoder: downsamples 8x (with four multipliers) to `z_channels` channels.

    latent = scale_factor * (mean - shift_factor). Always computed in float32, as published.
    """

    ch: Width = 128
    ch_mult: Annotated[tuple[Multiplier, ...], Meta(min_length=1, max_length=8)] = (1, 2, 4, 4)
    num_res_blocks: Annotated[int, Meta(ge=1, le=4)] = 2
    z_channels: Width = 16
    scale_factor: Positive = 0.3611
    shift_factor: float = 0.1159
    norm_groups: Width = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))  # as above

    def validate(self) -> None:
        """Raise UserError for sizes that are out of bounds or do not match each other."""
        check_fields(self, "the config", "autoencoder")
        for multiplier in self.ch_mult:
            if (self.ch * multiplier) % self.norm_groups:
                raise UserError(
                    f"autoencoder width {self.ch * multiplier} is not a multiple of norm_groups"
                    f" {self.norm_groups}; change ch, ch_mult or norm_groups."
                )


def step1x_edit_v1_0() -> ModelConfig:
    """Return the config of the first release, step1x-edit-i1258.safetensors."""
    return ModelConfig(version="v1.0")


def step1x_edit_v1_1() -> ModelConfig:
    """Return the config of the second release, step1x-edit-v1p1-official.safetensors."""
    return ModelConfig(version="v1.1")


def quickstart() -> ModelConfig:
    """Return a config of about 4 M parameters, which learns ten edits in minutes on two CPUs."""
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
    """Return a config of a few thousand parameters, for tests."""
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


# Tests use all presets; a file of configs/ calls the preset's function.
PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "step1x_edit_v1_0": step1x_edit_v1_0,
    "step1x_edit_v1_1": step1x_edit_v1_1,
    "quickstart": quickstart,
    "tiny": tiny,
}


def quickstart_autoencoder() -> AutoencoderConfig:
    """Return a config of about 2.8 M parameters; weights: assets/quickstart/autoencoder."""
    return AutoencoderConfig(
        ch=16,
        ch_mult=(1, 2, 4, 8),
        num_res_blocks=1,
        scale_factor=1.0,
        shift_factor=0.0,
        norm_groups=8,
    )
