"""Curate edits of a folder of photographs with models: detect, inpaint, score, caption, judge.

    python -m launch.curate run --config=configs/curate_models.py --workdir=runs/models \
        --config.source.path=photographs

Set each model's commit below (listed on its Hub page under Files, History), the path of the
aesthetics head and the address of the language model. This config was never run with the published
weights. Only one stage's models are in memory at a time. The largest, FLUX.1 Fill in bfloat16, has
33.7 GB of weights, so with its activations a GPU with 48 GB should suffice. The language model
needs its own GPU.
"""

from typing import Any

from step1x_jax.curation.captions.caption import Caption
from step1x_jax.curation.chat.verdict import Verdict
from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.operators.aesthetics import Aesthetics
from step1x_jax.curation.operators.clip import ClipScores
from step1x_jax.curation.operators.fill_plans import PlanFills
from step1x_jax.curation.operators.florence2 import Describe, Detect
from step1x_jax.curation.operators.flux_fill import FluxFill
from step1x_jax.curation.operators.limits import Limits
from step1x_jax.curation.operators.nsfw import Nsfw, TargetNsfw
from step1x_jax.curation.operators.sam2 import Masks
from step1x_jax.curation.review import Review
from step1x_jax.curation.sources.folder import ImageFolder
from step1x_jax.curation.stages.decontamination import Decontamination
from step1x_jax.curation.stages.filters import Languages, Leak, Unchanged
from step1x_jax.curation.stages.whole_filters import Duplicates, EditHashes

# Models on the Hugging Face Hub and their commits.
CLIP: dict[str, Any] = {"model": "openai/clip-vit-large-patch14", "revision": ""}
FLORENCE2: dict[str, Any] = {"model": "florence-community/Florence-2-large-ft", "revision": ""}
NSFW: dict[str, Any] = {"model": "Falconsai/nsfw_image_detection", "revision": ""}
SAM2: dict[str, Any] = {"model": "facebook/sam2.1-hiera-large", "revision": ""}
FLUX_FILL: dict[str, Any] = {"model": "black-forest-labs/FLUX.1-Fill-dev", "revision": ""}
LANGUAGE: dict[str, Any] = {
    "endpoint": "http://localhost:8000/v1",
    "model": "Qwen/Qwen2.5-VL-7B-Instruct",
}


def get_config() -> CurateConfig:
    return CurateConfig(
        source=ImageFolder(),
        stages={
            "nsfw": Nsfw(**NSFW),
            "aesthetics": Aesthetics(**CLIP),  # .head: path of its head
            "photographs": Limits(),
            "detect": Detect(**FLORENCE2),
            "masks": Masks(**SAM2),
            "plan": PlanFills(
                things=("a cat", "a potted plant", "a red suitcase", "a stack of books")
            ),
            "edit": FluxFill(**FLUX_FILL, count=4),
            "unchanged": Unchanged(),
            "leak": Leak(),
            "target_nsfw": TargetNsfw(**NSFW),
            "decontamination": Decontamination(),  # .dataset: path of the benchmark
            "hashes": EditHashes(),
            "duplicates": Duplicates(),
            "describe": Describe(**FLORENCE2),
            "scores": ClipScores(**CLIP),
            "limits": Limits(),
            "caption": Caption(**LANGUAGE),
            "languages": Languages(),
            "verdict": Verdict(**LANGUAGE),
            "good": Limits(),
            "review": Review(),
        },
    )
