"""Configs are frozen: other values make another config, and every field is reached by its name."""

import dataclasses

import pytest

from configs import curate_embedded, finetune_512, finetune_1024
from step1x_jax.errors import UserError
from step1x_jax.models.config import PRESETS
from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig


def test_only_the_named_fields_differ():
    before = TrainConfig()
    after = override(before, {"data.batch_size": 7, "autoencoder": "vae", "lora.rank": 2})
    assert (after.data.batch_size, after.autoencoder, after.lora.rank) == (7, "vae", 2)
    assert before == TrainConfig()
    same = {"data.batch_size": before.data.batch_size, "autoencoder": "", "lora.rank": 0}
    assert override(after, same) == before


def test_a_section_and_then_a_field_of_it():
    changes = {"model": PRESETS["tiny"](), "model.depth": 5}
    assert override(TrainConfig(), changes).model == dataclasses.replace(PRESETS["tiny"](), depth=5)


def test_stages_are_reached_by_their_names():
    config = curate_embedded.get_config()
    stage = config.stages["size"]
    other = override(config, {"stages.size.least_side": 96})
    assert other.stages["size"] == dataclasses.replace(stage, least_side=96)
    assert list(other.stages) == list(config.stages)
    assert config.stages["size"] is stage


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.batchsize", r"no field data\.batchsize; did you mean batch_size\?"),
        ("modl", r"no field modl; did you mean model\?"),
        ("data.path.x", r"no field data\.path\.x; remove it"),
        ("", "no field ; remove it"),
    ],
)
def test_a_name_that_is_no_field_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        override(TrainConfig(), {name: 1})


def test_configs_are_frozen_and_hashable():
    config = finetune_1024.get_config()
    assert hash(config) == hash(finetune_1024.get_config())
    assert hash(config) != hash(finetune_512.get_config())
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)
        section = getattr(config, field.name)
        if dataclasses.is_dataclass(section):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(section, dataclasses.fields(section)[0].name, None)
