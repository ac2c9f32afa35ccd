"""Curate edits of a folder of photographs that a language model plans and our editor makes.

    python -m launch.curate run --config=configs/curate_planned.py --workdir=runs/planned \
        --config.source.path=photographs --config.stages.edit.model=runs/mine

Set the address of the language model and the commits of the other models as in
configs/curate_models.py. The stage "edit" may be any stage that takes an instruction or a
description of the target; launch/guides/curate.md shows one with Stable Diffusion 3.5 and a
ControlNet.
"""

from configs.curate_models import CLIP, FLORENCE2, LANGUAGE, NSFW
from step1x_jax.curation.captions.caption import Caption
from step1x_jax.curation.chat.plan_edits import PlanEdits
from step1x_jax.curation.chat.verdict import Verdict
from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.operators.clip import ClipScores
from step1x_jax.curation.operators.florence2 import Detect
from step1x_jax.curation.operators.limits import Limits
from step1x_jax.curation.operators.nsfw import Nsfw, TargetNsfw
from step1x_jax.curation.operators.own_editor import OwnEditor
from step1x_jax.curation.review import Review
from step1x_jax.curation.sources.folder import ImageFolder
from step1x_jax.curation.stages.decontamination import Decontamination
from step1x_jax.curation.stages.filters import Languages, Unchanged
from step1x_jax.curation.stages.whole_filters import Duplicates, EditHashes


def get_config() -> CurateConfig:
    return CurateConfig(
        source=ImageFolder(),
        stages={
            "nsfw": Nsfw(**NSFW),
            "photographs": Limits(),
            "detect": Detect(**FLORENCE2),  # tags for the planner
            "plan": PlanEdits(**LANGUAGE),
            "edit": OwnEditor(count=4),  # .model: the model
            "unchanged": Unchanged(),
            "target_nsfw": TargetNsfw(**NSFW),
            "decontamination": Decontamination(),  # .dataset: path of the benchmark
            "hashes": EditHashes(),
            "duplicates": Duplicates(),
            "scores": ClipScores(**CLIP),
            "verdict": Verdict(**LANGUAGE),  # judges the planned instruction
            "limits": Limits(),
            "caption": Caption(**LANGUAGE),  # captions the result, in both languages
            "languages": Languages(),
            "review": Review(),
        },
    )
