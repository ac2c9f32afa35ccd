"""Where the components of an editor are, given the path of a model. No file is opened.

| format | model | autoencoder | text encoder |
|---|---|---|---|
| a run's folder | the folder | (the run's config names it) | (the run's config names it) |
| a diffusers pipeline | transformer/ | vae/ | text_encoder/ |
| a folder of components | transformer/ | autoencoder/ | encoder/ |
| the release's folder, a model's folder | the folder | vae.safetensors | Qwen2.5-VL-7B-Instruct/ |
| a .safetensors file, an index | the file | vae.safetensors beside it | Qwen2.5-VL-7B-Instruct/ beside it |
"""  # noqa: E501

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
class ComponentPaths:
    """Expected paths of the components, which need not exist; None: the format does not say."""

    model: epath.Path
    autoencoder: epath.Path | None = None
    encoder: epath.Path | None = None


def locate_components(path: epath.PathLike) -> ComponentPaths:
    """Locate the components of an editor.

    Args:
      path: of any format in the table above.

    Raises:
      UserError: a pipeline of another model.
    """
    path = epath.Path(path)
    if is_run(path):
        return ComponentPaths(path)
    if (path / "transformer").is_dir():
        _check_pipeline(path / PIPELINE)
        autoencoder, encoder = (
            next((path / name for name in names if (path / name).exists()), path / names[-1])
            for names in (("vae", "autoencoder"), ("text_encoder", "encoder"))
        )
        return ComponentPaths(path / "transformer", autoencoder, encoder)
    folder = path if path.is_dir() else path.parent
    return ComponentPaths(path, folder / AUTOENCODER_NAME, folder / ENCODER)


def _check_pipeline(index: epath.Path) -> None:
    if not index.is_file():
        return  # a folder of components, not a diffusers pipeline
    name = read_json(index).get("_class_name")
    if name not in PIPELINES:
        raise UserError(
            f"{index} is of {shown(name)}, but only {' and '.join(PIPELINES)} can be used here;"
            " give one of these, or a model of Step1X-Edit v1.0 or v1.1."
        )
