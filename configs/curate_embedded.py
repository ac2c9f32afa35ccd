"""Curate 11 kinds of edits of 14 photographs from Python packages: CPU only, no download, no model.

    python -m launch.curate run --config=configs/curate_embedded.py --workdir=runs/curate
    python -m launch.curate stats --config=configs/curate_embedded.py --workdir=runs/curate

Then run sheet, review and export in the same way. Expected time and results on 2 CPU cores, without
portraits:

    # curated curate_embedded
    4.5 minutes, and 2 for the export's records; kept are 729 of 1540 edits (2.1:1, the
    paper's is 20:1): 10 of the 11 categories have 37 to 118 from 4 and more photographs
    # end
"""

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.curation.config import CurateConfig, ExportConfig
from step1x_jax.curation.review import Review
from step1x_jax.curation.sources.photographs import EmbeddedPhotographs
from step1x_jax.curation.stages.decontamination import Decontamination
from step1x_jax.curation.stages.embedded_edits import EmbeddedEdits
from step1x_jax.curation.stages.filters import Languages, Leak, Size, Unchanged
from step1x_jax.curation.stages.template_instructions import TemplateInstructions
from step1x_jax.curation.stages.whole_filters import (
    Duplicates,
    EditHashes,
    FewSources,
    TemplateShare,
)


def get_config() -> CurateConfig:
    return CurateConfig(
        source=EmbeddedPhotographs(),
        stages={
            "edit": EmbeddedEdits(),
            "size": Size(),
            "unchanged": Unchanged(),
            "leak": Leak(),
            "decontamination": Decontamination(),  # .dataset: path of the benchmark
            "hashes": EditHashes(),
            "duplicates": Duplicates(),
            "instructions": TemplateInstructions(),
            "languages": Languages(),
            "template_share": TemplateShare(),
            "review": Review(),  # .verdicts: file saved by the page of `review`
            "few_sources": FewSources(),
        },
        # Records for the quickstart's small models; set the two paths for the released ones.
        export=ExportConfig(
            held_out=0.15,
            size=128,
            encoder=EncoderConfig(
                path="step1x_jax/assets/quickstart/encoder",
                dtype="float32",
                min_pixels=4 * 28 * 28,
                text_length=128,  # the longest instruction with its picture has 115 tokens
            ),
            autoencoder="step1x_jax/assets/quickstart/autoencoder",
        ),
    )
