"""What stages with models say of their settings, and what they load, without any model."""

import sys
import types

import pytest

from step1x_jax.curation.operators.aesthetics import Aesthetics
from step1x_jax.curation.operators.clip import ClipScores
from step1x_jax.curation.operators.models import import_library
from step1x_jax.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "model is ''"),
        ({"model": "openai/clip-vit-large-patch14"}, "revision of openai"),
        ({"model": "openai/clip-vit-large-patch14", "revision": "main"}, "revision of openai"),
        ({"model": ".", "gpus": -1.0}, "gpus"),
        ({"model": ".", "gpus": 65.0}, "gpus"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        ClipScores(**settings).validate()


def test_a_revision_is_of_the_fingerprint():
    one, other = (ClipScores("openai/x", revision=digit * 40) for digit in "ab")
    one.validate()
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() == ClipScores("openai/x", "a" * 40, gpus=0).fingerprint()
    assert one.resources == {"CPU": 1, "GPU": 1}


def test_a_head_is_asked_for():
    with pytest.raises(UserError, match="head is ''"):
        Aesthetics(model=".").validate()


def test_the_revision_is_loaded(monkeypatch):
    """Of a model on the Hub; here nothing can be downloaded."""
    asked = []

    class Kind:
        @staticmethod
        def from_pretrained(*names, **arguments):
            asked.append((names, arguments))

    library = types.ModuleType("transformers")
    library.Kind = Kind
    monkeypatch.setitem(sys.modules, "transformers", library)
    ClipScores("openai/x", revision="a" * 40).load("transformers", "Kind", subfolder="part")
    assert asked == [(("openai/x",), {"revision": "a" * 40, "subfolder": "part"})]


def test_a_library_that_is_missing():
    with pytest.raises(UserError, match=r"needs no_such_library .* 'step1x_jax\[torch\]'\.$"):
        import_library("no_such_library", "torch")
