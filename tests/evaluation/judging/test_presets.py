import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.judging.ask import Limits
from step1x_jax.evaluation.judging.judges import is_function, limits_for, preset_of
from step1x_jax.evaluation.judging.presets import DEFAULT, PRESETS, find_preset
from step1x_jax.evaluation.names import is_name


def test_names():
    assert DEFAULT == "qwen2.5-vl-72b"
    assert {*PRESETS} == {
        "qwen2.5-vl-72b",
        "qwen3-vl",
        "gpt-4.1",
        "gpt-5-family",
        "pvc-judge",
        "transformers",
    }
    for name, preset in PRESETS.items():
        assert name == preset.name
        assert is_name(name)  # of the folder of its judgements


def test_models_behind_an_api_have_a_date():
    for preset in PRESETS.values():
        if "api.openai.com" in preset.endpoint:
            assert preset.model.count("-202") == 1


def test_another_address_and_model():
    preset = find_preset("qwen3-vl", endpoint="http://host:1/v1/", model="other")
    assert (preset.endpoint, preset.model, preset.max_tokens) == ("http://host:1/v1", "other", 4096)
    for arguments, words in (
        ({"name": "gpt"}, "not known"),
        ({"name": "qwen3-vl", "endpoint": "host:1"}, "no address"),
        ({"name": "transformers"}, "needs --model"),
        ({"name": "transformers", "model": "x", "endpoint": "http://h"}, "leave --endpoint out"),
    ):
        with pytest.raises(UserError, match=words):
            find_preset(**arguments)


def test_functions_are_presets_too():
    assert is_function("package.module:function")
    assert not is_function("gpt-4.1")
    preset = preset_of("m:f", model="v2")
    assert (preset.name, preset.model) == ("m:f", "v2")


def test_what_runs_here_is_asked_once_and_alone():
    limits = Limits(max_attempts=4, concurrency=9)
    assert limits_for(preset_of("m:f"), limits) == Limits(max_attempts=1, concurrency=1)
    assert limits_for(preset_of("gpt-4.1"), limits) == limits
