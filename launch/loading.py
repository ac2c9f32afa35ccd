"""Brings the parts of an editor together."""

import jax

from step1x_jax.conditioning.encoder import TransformersEncoder
from step1x_jax.convert.official import load_autoencoder
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.model_folder import load_parts
from step1x_jax.training.checkpoint import restore_params


def load_editor(
    model: str,
    *,
    dtype: str | None = None,
    autoencoder: str | None = None,
    encoder: str | None = None,
    **sampling: float | None,
) -> Editor:
    """The editor that a command's flags describe.

    Args:
      model: see editing/model_folder.py.
      dtype: of the arithmetic; None is float32 on CPUs and bfloat16 elsewhere.
      autoencoder: file or folder, if not with the model.
      encoder: the Qwen folder, if not with the model.
      **sampling: fields of SamplingConfig to override; None keeps the model's.
    """
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    parts = load_parts(model, restore_params, dtype)
    if encoder:
        parts.encoder.path = encoder
    for field, value in sampling.items():
        if value is not None:
            setattr(parts.sampling, field, value)
    parts.sampling.validate()
    return Editor(
        parts.model,
        load_autoencoder(autoencoder or parts.autoencoder),
        TransformersEncoder(parts.encoder),
        parts.sampling,
    )
