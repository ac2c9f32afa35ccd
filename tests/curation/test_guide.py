"""The Python of launch/guides/curate.md does what it says."""

import dataclasses
import pathlib
import re

import pytest

from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.operators.models import ModelStage
from step1x_jax.curation.operators.sd3_controlnet import Sd3ControlNet
from step1x_jax.curation.results import Results
from tests.curation.tiny_edits import as_pixels, tiny_config
from tests.curation.toys import drive

COMMIT = "0123456789" * 4
GUIDE = pathlib.Path(__file__).parents[2] / "launch/guides/curate.md"


def block_with(text):
    """The names that the block of Python with a text in it defines."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if text in block]
    names = {"__name__": "guide"}
    exec(block, names)
    return names


def test_the_config_with_captions():
    config = block_with("Caption(")["get_config"]()
    config.validate()
    assert config.stages["instructions"].model.startswith("Qwen/")


def test_planned_edits_by_stable_diffusion():
    config = block_with("Sd3ControlNet(")["get_config"]()
    for stage in config.stages.values():
        if isinstance(stage, ModelStage):
            stage.revision = COMMIT
    config.stages["edit"].controlnet_revision = COMMIT
    config.validate()
    assert isinstance(config.stages["edit"], Sd3ControlNet)


@pytest.mark.parquet
def test_the_operator(tmp_path):
    darkness = block_with("class Darkness")["Darkness"]
    config = tiny_config()
    config.stages["dark"] = darkness(least=125.0)
    config.validate()
    drive(config.pipeline(), tmp_path)
    columns = {"brightness": float, "source": bytes}
    rows = [
        row
        for row in Results(config.pipeline(), Workdir(tmp_path)).all(columns)
        if row["source"] and row["stage"] in ("", "dark")
    ]
    dark = [as_pixels(row["source"]).mean() < 125 for row in rows]
    assert 0 < sum(dark) < len(rows)
    for row, is_dark in zip(rows, dark, strict=True):
        if abs(as_pixels(row["source"]).mean() - 125) > 5:  # luma weighs the channels
            assert (row["reason"] == "too_dark") == is_dark
            assert (row["brightness"] is None) == is_dark
    assert dataclasses.is_dataclass(darkness)
