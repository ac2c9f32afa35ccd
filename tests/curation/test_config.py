"""Configs of curation: what they must be, and what they say."""

import json

import pytest

from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from tests.curation.tiny_edits import Edits, tiny_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"languages": ("en", "fr")}, "export.languages"),
        ({"languages": ()}, "export.languages"),
        ({"languages": ("en", "en")}, "export.languages"),
        ({"held_out": 1.0}, "export.held_out"),
        ({"held_out": -0.1}, "export.held_out"),
        ({"autoencoder": "x"}, "export.encoder.path"),
    ],
)
def test_exports_that_cannot_be(change, message):
    config = override(tiny_config(), {f"export.{name}": value for name, value in change.items()})
    with pytest.raises(UserError, match=message):
        config.validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"max_error_rate": 2.0}, "max_error_rate"),
        ({"stages.edit.brighter": "x"}, "stages.edit.brighter"),
        ({"source": Edits()}, "give a Source"),
        ({"stages": {"x": 3}}, "stages.x"),
    ],
)
def test_configs_that_cannot_be(change, message):
    config = override(tiny_config(), change)
    with pytest.raises(UserError, match=message):
        config.validate()


def test_a_config_says_what_it_is():
    described = tiny_config(seed=3).describe()
    assert described["stages"]["edit"] == {
        "class": "tests.curation.tiny_edits.Edits",
        "brighter": 40,
    }
    assert json.loads(json.dumps(described)) == described
    assert list(described["stages"]) == ["edit", "words", "review"]
