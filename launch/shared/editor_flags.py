"""The flags of what loads an Editor, for launch.edit and launch.demo."""

from typing import Any

from absl import flags

from launch.shared import weights_flags
from launch.shared.old_names import keep_old_name
from step1x_jax import choices

VAE = flags.DEFINE_string("vae", None, "The autoencoder's file or folder, if not with the model.")
TEXT_ENCODER = flags.DEFINE_string(
    "text_encoder", None, "The Qwen2.5-VL folder, if not with the model."
)
BASE = flags.DEFINE_string("base", "", "For a run of adapters: its base, if that has moved.")
CACHE = flags.DEFINE_string("cache", None, "Folder to keep embeddings in, for the next edits.")
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Arithmetic (default: float32 on CPU, else bfloat16)."
)
MESH = flags.DEFINE_string(
    "mesh", None, "Mesh of devices for an edit, such as fsdp=2,tensor=2 (default: one device)."
)
OFFLOAD = flags.DEFINE_bool(
    "offload", False, "Keep the models in host memory, and on the devices only while they work."
)
QUANTIZE = flags.DEFINE_enum(
    "quantize", None, list(choices.EIGHT_BITS), "Store the transformer in 8 bits."
)
flags.adopt_module_key_flags(weights_flags)
keep_old_name("autoencoder", "vae")
keep_old_name("qwen", "text_encoder")


def loading() -> dict[str, Any]:
    """Return all arguments of `Editor.load` but the path."""
    return {**opening(), **execution(), "cache": CACHE.value}


def opening() -> dict[str, Any]:
    """Return those arguments that say what is opened."""
    return {"loras": weights_flags.loras(), "ema": weights_flags.EMA.value, **places()}


def places() -> dict[str, Any]:
    """Return those arguments that name components that are not beside the model."""
    return {"base": BASE.value or None, "text_encoder": TEXT_ENCODER.value, "vae": VAE.value}


def execution() -> dict[str, Any]:
    """Return those arguments that say where and how the models compute."""
    return {
        "dtype": DTYPE.value,
        "mesh": MESH.value,
        "quantize": QUANTIZE.value,
        "offload": OFFLOAD.value,
    }
