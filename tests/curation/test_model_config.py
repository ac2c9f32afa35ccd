"""configs/curate_models.py: its stages fit each other, once the models are named."""

import pytest

from configs.curate_models import get_config
from step1x_jax.curation.operators.models import ModelStage
from step1x_jax.errors import UserError

COMMIT = "0123456789" * 4


def test_it_asks_for_the_commits():
    with pytest.raises(UserError, match="revision of openai/clip-vit-large-patch14"):
        get_config().validate()


def test_its_stages_fit_each_other():
    config = get_config()
    models = [stage for stage in config.stages.values() if isinstance(stage, ModelStage)]
    assert len(models) == 6
    for stage in models:
        stage.revision = COMMIT
    config.stages["aesthetics"].head = "head.safetensors"
    config.validate()
    assert config.describe()["stages"]["edit"]["revision"] == COMMIT
    del config.stages["masks"]
    with pytest.raises(UserError, match="the stage plan reads the column masks"):
        config.validate()


def test_nothing_heavy_is_imported_with_it():
    import subprocess
    import sys

    code = (
        "import configs.curate_models, sys; configs.curate_models.get_config();"
        " print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
