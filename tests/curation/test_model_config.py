"""The configs with models: their stages fit each other, once the models are named."""

import pytest

from configs.curate_models import get_config
from configs.curate_planned import get_config as get_planned
from step1x_jax.curation.operators.models import ModelStage
from step1x_jax.errors import UserError

COMMIT = "0123456789" * 4


def test_it_asks_for_the_commits():
    for config in (get_config(), get_planned()):
        with pytest.raises(UserError, match="revision of Falconsai/nsfw_image_detection"):
            config.validate()


def name_models(config, count):
    """Gives each of so many models of the Hub a commit."""
    models = [stage for stage in config.stages.values() if isinstance(stage, ModelStage)]
    assert len(models) == count
    for stage in models:
        stage.revision = COMMIT


def test_its_stages_fit_each_other():
    config = get_config()
    name_models(config, 8)
    config.stages["aesthetics"].head = "head.safetensors"
    config.validate()
    assert config.describe()["stages"]["edit"]["revision"] == COMMIT
    del config.stages["masks"]
    with pytest.raises(UserError, match="the stage plan reads the column masks"):
        config.validate()


def test_planned_edits_fit_our_editor():
    config = get_planned()
    name_models(config, 4)
    with pytest.raises(UserError, match=r"what launch\.edit takes"):
        config.validate()
    config.stages["edit"].model = "runs/mine"
    config.validate()
    del config.stages["plan"]
    with pytest.raises(UserError, match="the stage edit reads the column source"):
        config.validate()


@pytest.mark.parametrize("get", [get_config, get_planned])
def test_unsafe_pictures_are_left_out_early_and_verdicts_late(get):
    """A limit follows each score before models that cost more are asked."""
    stages = list(get().stages)
    limits = [i for i, name in enumerate(stages) if name in ("photographs", "limits", "good")]
    assert stages[0] == "nsfw"
    assert stages[limits[0] + 1] == "detect"
    after = stages.index("target_nsfw"), stages.index("scores"), stages.index("verdict")
    assert sorted(after) == list(after)
    assert after[2] + 1 == limits[-1]


@pytest.mark.slow
def test_nothing_heavy_is_imported_with_it():
    import subprocess
    import sys

    code = (
        "import configs.curate_planned, sys; configs.curate_planned.get_config();"
        " print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
