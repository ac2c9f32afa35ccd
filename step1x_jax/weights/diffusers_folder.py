"""Folders of diffusers: config.json and .safetensors files of a model, or a pipeline.

The classes are Step1XEditTransformer2DModel (diffusers' pull request 12249), FluxTransformer2DModel
(read only) and AutoencoderKL.

config.json holds the arguments of the class and, under `_step1x_jax`, which diffusers ignores as a
private entry, our own config.json: sizes that the class does not have, and sampling defaults.
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
from step1x_jax.weights.readers import LayoutMap, Override, Relayout, Shape, Tensors

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
_MODEL = {  # argument of the class -> our size
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
    """Return diffusers' config.json of connector and DiT.

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
    """Return diffusers' config.json of the autoencoder."""
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


def convert_diffusers_json(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Convert diffusers' config.json to ours.

    Args:
      values: of diffusers' config.json.
      source: its path, for messages.

    Raises:
      UserError: it is of another class, or lacks a size.
    """
    class_name = values.get("_class_name")
    if isinstance(values.get(OURS), dict):
        return dict(values[OURS])
    if class_name not in (TRANSFORMER, FLUX, AUTOENCODER):
        raise UserError(
            f"{source} is of {shown(class_name)}, which cannot be used here; give a folder of"
            f" {TRANSFORMER}, {FLUX} or {AUTOENCODER}."
        )

    def size(name: str, value_type: Any = Width) -> Any:
        if name not in values:
            raise UserError(f"{source} lacks a size, {name}; add it.")
        return build(value_type, values[name], source, name)

    if class_name == AUTOENCODER:
        widths = size("block_out_channels", Annotated[list[Width], Meta(min_length=1)])
        sizes = {ours: size(theirs, Any) for theirs, ours in _AUTOENCODER.items()}
        mult = [n // widths[0] for n in widths]
        return {"kind": "vae", "ch": widths[0], "ch_mult": mult} | sizes
    names = _STEP1X if class_name == TRANSFORMER else _FLUX
    config = ModelConfig(
        hidden_size=size("num_attention_heads") * size("attention_head_dim"),
        axes_dim=size("axes_dims_rope", tuple[Width, ...]),
        **{ours: size(theirs) for theirs, ours in names.items() if ours != "axes_dim"},
    )
    return config_json.to_json(config)


def diffusers_layout(
    config: ModelConfig | AutoencoderConfig, official: Mapping[str, Shape], flux: bool = False
) -> LayoutMap:
    """Return the map from official tensors to diffusers'.

    Args:
      config: sizes.
      official: shapes of the official tensors.
      flux: for FluxTransformer2DModel.
    """
    if isinstance(config, AutoencoderConfig):
        return autoencoder_layout(official, len(config.ch_mult))
    return transformer_layout(official, config.hidden_size, flux)


def to_diffusers(tensors: Tensors, config: ModelConfig | AutoencoderConfig) -> Tensors:
    """Show official tensors as diffusers'; v1.0's scale_factor is folded (see FOLDED)."""
    if SCALE in tensors.shapes:
        tensors = _fold_scale_factor(tensors)
    return Relayout(tensors, diffusers_layout(config, tensors.shapes))


def _fold_scale_factor(tensors: Tensors) -> Tensors:
    def product() -> np.ndarray:
        weight, scale = tensors.read(PROJ), tensors.read(SCALE)
        exact = weight.astype(np.float32) * (1 + scale.astype(np.float32))
        return exact.astype(weight.dtype)

    change = tensors.shapes[PROJ], tensors.dtypes[PROJ], product
    note = dict(tensors.metadata) | {"note": FOLDED}
    return Override(tensors, {SCALE: None, PROJ: change}, note)


def to_official(tensors: Tensors, layout: LayoutMap) -> Tensors:
    """Show diffusers' tensors as official ones; a folded v1.0 gets a scale_factor of 0.

    Args:
      tensors: of a folder; their names and shapes have been compared with the layout.
      layout: see `diffusers_layout`.
    """
    metadata = {name: x for name, x in tensors.metadata.items() if name != "format"}
    result: Tensors = Relayout(Override(tensors, {}, metadata), layout.inverse())
    if SCALE in layout.source:
        dtype = result.dtypes[PROJ]
        result = Override(result, {SCALE: ((1,), dtype, lambda: np.zeros(1, dtype))})
    return result


def write_folder(
    folder: epath.Path,
    tensors: Tensors,
    config: ModelConfig | AutoencoderConfig,
    fields: Mapping[str, Any],
) -> None:
    """Write the folder of one model.

    Args:
      folder: exists and is empty.
      tensors: the official tensors.
      config: sizes.
      fields: further entries of our own config.json.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    theirs = to_diffusers(tensors, config)
    write_shards(folder, Override(theirs, {}, {"format": "pt"} | dict(theirs.metadata)))
    values = (
        transformer_json(config, fields)
        if isinstance(config, ModelConfig)
        else autoencoder_json(config)
    )
    write_json(folder / config_json.FILE, values)


def write_pipeline_json(folder: epath.Path) -> None:
    """Write model_index.json and scheduler/, which make transformer/ and vae/ a pipeline.

    The user adds text_encoder/ and processor/ of Qwen2.5-VL.
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
