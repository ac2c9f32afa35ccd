"""Edits that a language model plans for a folder of photographs, made by a model of ours.

    python -m launch.curate run --config=configs/curate_planned.py --workdir=runs/planned \
        --config.source.path=photographs --config.stages.edit.model=runs/mine

The language model is at the address below, and the commits of the others are to be given, as in
configs/curate_models.py. The stage "edit" may be any that takes an instruction or a description of
the target: launch/guides/curate.md has it with Stable Diffusion 3.5 and a ControlNet.
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
    config = CurateConfig(source=ImageFolder())
    config.stages = {
        "nsfw": Nsfw(**NSFW),
        "photographs": Limits(),
        "detect": Detect(**FLORENCE2),  # the tags that the planner is told
        "plan": PlanEdits(**LANGUAGE),
        "edit": OwnEditor(count=4),  # which model: .model
        "unchanged": Unchanged(),
        "target_nsfw": TargetNsfw(**NSFW),
        "decontamination": Decontamination(),  # the benchmark's path: .dataset
        "hashes": EditHashes(),
        "duplicates": Duplicates(),
        "scores": ClipScores(**CLIP),
        "verdict": Verdict(**LANGUAGE),  # of the instruction as it was planned
        "limits": Limits(),
        "caption": Caption(**LANGUAGE),  # then of what was made: both languages
        "languages": Languages(),
        "review": Review(),
    }
    return config
