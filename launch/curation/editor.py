"""Loads our own editor for the stages of launch.curate that make candidates with it."""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

from PIL import Image

from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.operators.own_editor import Edit, OwnEditor
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.fingerprints import noted_models
from step1x_jax.editing.loading import default_dtype, find_weights
from step1x_jax.editing.settings import plans_of, sampling_of
from step1x_jax.sampling.plan import EXACT, unscaled


def give_editors(config: CurateConfig) -> None:
    """Give each stage that asks for one what loads its editor."""
    for stage in config.stages.values():
        if isinstance(stage, OwnEditor):
            stage.use(MadeByEditor())


@dataclasses.dataclass(frozen=True)
class MadeByEditor:
    """See `EditorMaker`; it holds nothing, so that it can be sent to any process."""

    def identity(self, stage: OwnEditor) -> Mapping[str, Any]:
        """See `EditorMaker`."""
        return _digests(stage.model, stage.ema, stage.autoencoder, stage.qwen) | {
            "dtype": stage.dtype or default_dtype()
        }

    def load(self, stage: OwnEditor) -> Edit:
        """See `EditorMaker`."""
        editor = Editor.load(
            stage.model,
            ema=stage.ema,
            dtype=stage.dtype or None,
            text_encoder=stage.qwen or None,
            vae=stage.autoencoder or None,
            say=lambda line: print(line, file=sys.stderr),
        )

        def edit(picture: Image.Image, instruction: str, seed: int) -> Image.Image:
            (edited,) = editor.edit(
                picture,
                instruction,
                seed=seed,
                steps=stage.steps,
                guidance_scale=stage.guidance,
                size=stage.size,
            )
            return edited

        return edit


@functools.cache  # a run asks for it with every part
def _digests(model: str, ema: bool, autoencoder: str, qwen: str) -> dict[str, Any]:
    """Return fingerprints of the weights, and the model's sampling defaults."""
    found = find_weights(model, ema=ema, text_encoder=qwen or None, vae=autoencoder or None)
    models = noted_models(found, model, autoencoder or None, qwen or None, ())
    digests = {name: models[name].digest for name in ("model", "autoencoder", "encoder")}
    sampling = dataclasses.asdict(sampling_of(found.weights))
    if sampling["speed"] == EXACT:
        del sampling["speed"]  # as before there was a choice
    else:
        plan = unscaled(sampling["speed"], plans_of(found.weights))
        sampling["plan"] = dataclasses.asdict(plan)
    return {**digests, "sampling": sampling}
