"""How prompts were read travels with models, runs and data sets; older ones had the label."""

import dataclasses

import pytest

from step1x_jax.conditioning.encoder import READING, EncoderConfig, stored_reading
from step1x_jax.data.chunks import check_settings
from step1x_jax.data.manifest import MANIFEST, write_dataset
from step1x_jax.data.precompute import make_settings
from step1x_jax.errors import UserError
from step1x_jax.json_files import as_json
from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig, check_records
from step1x_jax.training.config_file import from_json

OLDER = {"min_pixels": 3136, "max_pixels": 254016, "quoting": "published"}


def test_what_was_stored_before_the_setting_had_the_label():
    assert stored_reading(OLDER) == OLDER | {"picture_label": True}
    for label in (True, False):
        newer = OLDER | {"picture_label": label}
        assert stored_reading(newer) == newer
    assert stored_reading({"min_pixels": 3136, "kind": "dit"}) == {"min_pixels": 3136}


def test_an_older_run_is_told_that_it_had_the_label():
    values = as_json(TrainConfig())
    assert from_json(values, "x").encoder.picture_label is False
    del values["encoder"]["picture_label"]
    assert from_json(values, "x").encoder.picture_label is True


def test_older_records_are_refused_by_name_until_the_config_says_so(tmp_path):
    config = override(TrainConfig(), {"data.path": str(tmp_path)})
    older = {name: getattr(config.encoder, name) for name in READING if name != "picture_label"}
    write_dataset(tmp_path, [], older)
    with pytest.raises(UserError, match=r"set --config\.encoder\.picture_label=True"):
        check_records(config)
    config = override(config, {"encoder.picture_label": True})
    check_records(config)


def test_records_are_not_added_to_ones_that_were_read_otherwise(tmp_path):
    for name in ("encoder", "autoencoder"):
        (tmp_path / name).write_text(name)
    config = EncoderConfig(path=str(tmp_path / "encoder"))
    settings = make_settings(64, config, tmp_path / "autoencoder")
    assert settings["picture_label"] is False
    output = tmp_path / "out"
    write_dataset(output, [], {n: v for n, v in settings.items() if n != "picture_label"})
    assert (output / MANIFEST).is_file()
    with pytest.raises(UserError, match="made with picture_label=True, now it is False"):
        check_settings(output, settings)
    labelled = dataclasses.replace(config, picture_label=True)
    check_settings(output, make_settings(64, labelled, tmp_path / "autoencoder"))
