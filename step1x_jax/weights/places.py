"""Where the parts of an editor lie in what a path names; nothing is opened.

| form | model | autoencoder | encoder |
|---|---|---|---|
| a run's folder | it | (as its config says) | (as its config says) |
| a pipeline of diffusers | transformer/ | vae/ | text_encoder/ |
| a folder of parts | transformer/ | autoencoder/ | encoder/ |
| the release's folder, that of a model | it | vae.safetensors | Qwen2.5-VL-7B-Instruct/ |
| a .safetensors file, an index | it | vae.safetensors beside | Qwen2.5-VL-7B-Instruct/ beside |
"""

import dataclasses

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json, shown
from step1x_jax.weights.files.opening import AUTOENCODER_NAME
from step1x_jax.weights.run.folder import is_run

ENCODER = "Qwen2.5-VL-7B-Instruct"
PIPELINE = "model_index.json"
PIPELINES = ("Step1XEditPipeline", "FluxPipeline", "FluxKontextPipeline")


@dataclasses.dataclass(frozen=True)
class Places:
    """Where parts are or would be; None: nothing says where."""

    model: epath.Path
    autoencoder: epath.Path | None = None
    encoder: epath.Path | None = None


def places_of(path: epath.PathLike) -> Places:
    """What a path means.

    Args:
      path: of any of the forms above.

    Raises:
      UserError: a pipeline of another model.
    """
    path = epath.Path(path)
    if is_run(path):
        return Places(path)
    if (path / "transformer").is_dir():
        _check_pipeline(path / PIPELINE)
        autoencoder, encoder = (
            next((path / name for name in names if (path / name).exists()), path / names[-1])
            for names in (("vae", "autoencoder"), ("text_encoder", "encoder"))
        )
        return Places(path / "transformer", autoencoder, encoder)
    beside = path if path.is_dir() else path.parent
    return Places(path, beside / AUTOENCODER_NAME, beside / ENCODER)


def _check_pipeline(index: epath.Path) -> None:
    if not index.is_file():
        return  # a folder of parts
    name = read_json(index).get("_class_name")
    if name not in PIPELINES:
        raise UserError(
            f"{index} is of {shown(name)}, and of pipelines only {' and '.join(PIPELINES)} can be"
            " used here; give one of these, or a model of Step1X-Edit v1.0 or v1.1."
        )
