"""Weights as folders of diffusers: config.json and .safetensors files of a model, or of a pipeline.

The classes are Step1XEditTransformer2DModel (of diffusers' pull request 12249),
FluxTransformer2DModel (read only) and AutoencoderKL.

config.json holds what the class takes, and under `_step1x_jax`, which diffusers skips as a private
entry, our own config.json: sizes that the class does not know, and sampling defaults.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from etils import epath
from msgspec import Meta

from step1x_jax.bounds import Width
from step1x_jax.errors import UserError
from step1x_jax.json_files import build, shown, write_json
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.weights import config_json
from step1x_jax.weights.files.shards import write_shards
from step1x_jax.weights.layouts.diffusers import autoencoder_layout, transformer_layout
from step1x_jax.weights.readers import Changed, Layout, Rearranged, Shape, Tensors

TRANSFORMER, FLUX, AUTOENCODER = (
    "Step1XEditTransformer2DModel",
    "FluxTransformer2DModel",
    "AutoencoderKL",
)
OURS = "_step1x_jax"
SCALE, PROJ = "connector.scale_factor", "connector.global_proj_out.weight"
FOLDED = (
    "Step1X-Edit v1.0 has no lossless diffusers form: 1 + connector.scale_factor is multiplied"
    " into connector.global_proj_out.weight and rounded; and a pipeline made for v1.1 gives the"
    " reference picture other positions than v1.0 was trained with."
)
_MODEL = {  # the class's argument -> our size
    "in_channels": "in_channels",
    "num_layers": "depth",
    "num_single_layers": "depth_single_blocks",
    "num_attention_heads": "num_heads",
    "joint_attention_dim": "context_in_dim",
    "axes_dims_rope": "axes_dim",
}
_STEP1X = _MODEL | {
    "vector_in_dim": "vec_in_dim",
    "connector_in_channels": "connector_in_channels",
    "connector_hidden_size": "connector_hidden_size",
    "connector_heads_num": "connector_heads",
    "connector_depth": "connector_depth",
}
_FLUX = _MODEL | {"pooled_projection_dim": "vec_in_dim"}
_AUTOENCODER = {
    "layers_per_block": "num_res_blocks",
    "latent_channels": "z_channels",
    "scaling_factor": "scale_factor",
    "shift_factor": "shift_factor",
    "norm_num_groups": "norm_groups",
}


def transformer_json(config: ModelConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of connector and DiT.

    Args:
      config: sizes.
      fields: further entries of our own config.json.
    """
    values = config_json.to_json(config)
    return {
        "_class_name": TRANSFORMER,
        "attention_head_dim": config.head_dim,
        "guidance_embeds": False,
        "out_channels": config.in_channels,
        "patch_size": 1,
        "timestep_in_dim": 256,
        OURS: values | dict(fields),
    } | {theirs: values[ours] for theirs, ours in _STEP1X.items()}


def autoencoder_json(config: AutoencoderConfig) -> dict[str, Any]:
    """config.json of the autoencoder."""
    values = config_json.to_json(config)
    levels = len(config.ch_mult)
    return {
        "_class_name": AUTOENCODER,
        "act_fn": "silu",
        "block_out_channels": [config.ch * m for m in config.ch_mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "mid_block_add_attention": True,
        "out_channels": 3,
        "sample_size": 1024,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    } | {theirs: values[ours] for theirs, ours in _AUTOENCODER.items()}


def read_json_of(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Our own config.json from diffusers'.

    Args:
      values: of diffusers' config.json.
      source: its path, for messages.

    Raises:
      UserError: it is of another class, or lacks a size.
    """
    kind = values.get("_class_name")
    if isinstance(values.get(OURS), dict):
        return dict(values[OURS])
    if kind not in (TRANSFORMER, FLUX, AUTOENCODER):
        raise UserError(
            f"{source} is of {shown(kind)}, which cannot be used here; give a folder of"
            f" {TRANSFORMER}, {FLUX} or {AUTOENCODER}."
        )

    def size(name: str, kind: Any = Width) -> Any:
        if name not in values:
            raise UserError(f"{source} lacks a size, {name}; add it.")
        return build(kind, values[name], source, name)

    if kind == AUTOENCODER:
        widths = size("block_out_channels", Annotated[list[Width], Meta(min_length=1)])
        sizes = {ours: size(theirs, Any) for theirs, ours in _AUTOENCODER.items()}
        mult = [n // widths[0] for n in widths]
        return {"kind": "vae", "ch": widths[0], "ch_mult": mult} | sizes
    names = _STEP1X if kind == TRANSFORMER else _FLUX
    config = ModelConfig(
        hidden_size=size("num_attention_heads") * size("attention_head_dim"),
        axes_dim=size("axes_dims_rope", tuple[Width, ...]),
        **{ours: size(theirs) for theirs, ours in names.items() if ours != "axes_dim"},
    )
    return config_json.to_json(config)


def layout_of(
    config: ModelConfig | AutoencoderConfig, official: Mapping[str, Shape], flux: bool = False
) -> Layout:
    """Official tensors of these sizes, and where diffusers has them.

    Args:
      config: sizes.
      official: shapes of the official tensors.
      flux: in FluxTransformer2DModel.
    """
    if isinstance(config, AutoencoderConfig):
        return autoencoder_layout(official, len(config.ch_mult))
    return transformer_layout(official, config.hidden_size, flux)


def as_diffusers(tensors: Tensors, config: ModelConfig | AutoencoderConfig) -> Tensors:
    """Official tensors seen as diffusers'; v1.0 is folded (FOLDED)."""
    if SCALE in tensors.shapes:
        tensors = _folded(tensors)
    return Rearranged(tensors, layout_of(config, tensors.shapes))


def _folded(tensors: Tensors) -> Tensors:
    def product() -> np.ndarray:
        weight, scale = tensors.read(PROJ), tensors.read(SCALE)
        exact = weight.astype(np.float32) * (1 + scale.astype(np.float32))
        return exact.astype(weight.dtype)

    change = tensors.shapes[PROJ], tensors.dtypes[PROJ], product
    note = dict(tensors.metadata) | {"note": FOLDED}
    return Changed(tensors, {SCALE: None, PROJ: change}, note)


def as_official(tensors: Tensors, layout: Layout) -> Tensors:
    """diffusers' tensors seen as official ones; a folded v1.0 gets a scale_factor of 0.

    Args:
      tensors: of a folder, whose names and shapes have been compared with the layout.
      layout: see `layout_of`.
    """
    metadata = {name: x for name, x in tensors.metadata.items() if name != "format"}
    result: Tensors = Rearranged(Changed(tensors, {}, metadata), layout.back())
    if SCALE in layout.here:
        dtype = result.dtypes[PROJ]
        result = Changed(result, {SCALE: ((1,), dtype, lambda: np.zeros(1, dtype))})
    return result


def write_folder(
    folder: epath.Path,
    tensors: Tensors,
    config: ModelConfig | AutoencoderConfig,
    fields: Mapping[str, Any],
) -> None:
    """Writes one model's folder, which exists and is empty.

    Args:
      folder: where.
      tensors: official ones.
      config: sizes.
      fields: further entries of our own config.json.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    theirs = as_diffusers(tensors, config)
    write_shards(folder, Changed(theirs, {}, {"format": "pt"} | dict(theirs.metadata)))
    values = (
        transformer_json(config, fields)
        if isinstance(config, ModelConfig)
        else autoencoder_json(config)
    )
    write_json(folder / config_json.FILE, values)


def write_pipeline_json(folder: epath.Path) -> None:
    """Writes what makes a pipeline of transformer/ and vae/: model_index.json and scheduler/.

    text_encoder/ and processor/ are those of Qwen2.5-VL, which the user adds.
    """
    index = {
        "_class_name": "Step1XEditPipeline",
        "processor": ["transformers", "Qwen2_5_VLProcessor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "transformer": ["diffusers", TRANSFORMER],
        "vae": ["diffusers", AUTOENCODER],
    }
    scheduler = {  # the published schedule: mu from 0.5 at 256 tokens to 1.15 at 4096
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
    }
    write_json(folder / "model_index.json", index)
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
