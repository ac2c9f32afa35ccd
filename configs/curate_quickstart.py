"""Curate the quickstart's data set: ten plain edits of crops of photographs from Python packages.

    for action in run export; do
        python -m launch.curate $action --config=configs/curate_quickstart.py --workdir=runs/edits
    done

Expected time: a minute and a half on 2 CPU cores. For your own photographs, set the source to
ImageFolder(path=...) (curation/sources/folder.py).
"""

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.curation.config import CurateConfig, ExportConfig
from step1x_jax.curation.sources.crops import EmbeddedCrops
from step1x_jax.curation.stages.plain_edits import PlainEdits
from step1x_jax.curation.stages.template_instructions import TemplateInstructions
from step1x_jax.quickstart.held_out import PHOTOGRAPHS


def get_config() -> CurateConfig:
    return CurateConfig(
        source=EmbeddedCrops(count=200, apart=PHOTOGRAPHS),
        stages={"edit": PlainEdits(), "instructions": TemplateInstructions()},
        export=ExportConfig(
            held_out_groups=PHOTOGRAPHS,
            size=128,
            encoder=EncoderConfig(
                path="step1x_jax/assets/quickstart/encoder",
                dtype="float32",
                min_pixels=4 * 28 * 28,  # 25 tokens per picture
                text_length=64,
            ),
            autoencoder="step1x_jax/assets/quickstart/autoencoder",
        ),
    )
