import dataclasses
import io

import pytest
from PIL import Image

from step1x_jax.asking.ask import AskLimits
from step1x_jax.asking.cache import cache_key
from step1x_jax.asking.chat import ChatClient
from step1x_jax.asking.exchange import Ask
from step1x_jax.asking.pictures import picture_to_send
from step1x_jax.errors import UserError
from step1x_jax.evaluation.judging.judges import is_function, limits_for, preset_of
from step1x_jax.evaluation.judging.presets import DEFAULT, PRESETS, find_preset
from step1x_jax.evaluation.names import is_name
from tests.asking.chat_server import completion, serving


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


def test_requests_of_each():
    schema = {"type": "object"}
    answer = {"name": "answer", "strict": True, "schema": schema}
    form = {"response_format": {"type": "json_schema", "json_schema": answer}}
    expected = {
        "qwen2.5-vl-72b": {
            "model": "Qwen/Qwen2.5-VL-72B-Instruct-AWQ",
            "max_tokens": 512,
            "temperature": 0,
        },
        "qwen3-vl": {"model": "Qwen/Qwen3-VL-32B-Instruct", "max_tokens": 4096, "temperature": 0}
        | form,
        "gpt-4.1": {"model": "gpt-4.1-2025-04-14", "max_tokens": 1400},
        "gpt-5-family": {"model": "gpt-5.1-2025-11-13", "max_completion_tokens": 4096} | form,
        "pvc-judge": {
            "model": "PVC-Judge",
            "max_tokens": 2048,
            "temperature": 0.7,
            "seed": 42 + 2000 + 1,
        },
    }
    with serving(lambda request: completion("fine")) as server:
        for name in PRESETS.keys() - {"transformers"}:
            client = ChatClient(dataclasses.replace(PRESETS[name], endpoint=server.url), 5)
            client.answer(Ask("q", ("well?",), schema=schema, repeat=2), attempt=1)
            body = server.questions[-1].body
            body.pop("messages")
            assert body == expected[name]


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
    limits = AskLimits(max_attempts=4, concurrency=9)
    assert limits_for(preset_of("m:f"), limits) == AskLimits(max_attempts=1, concurrency=1)
    assert limits_for(preset_of("gpt-4.1"), limits) == limits


# What stood in replies.jsonl before how models are asked had a room of its own.
STORED_KEYS = {
    "qwen2.5-vl-72b": "f6cc7c252fb6cacda13fb6682577f5dbee798565b94b67e886039c349d3b3967",
    "qwen3-vl": "85782dfa52328343a7d5460adb315643dd5dbfe1cf06996d1eee3e3e723eb5b4",
    "gpt-4.1": "36d8c9b05d8dbcf4e9fc4b20c2a735c2feb1889ba968515725894908cfbe3ee8",
    "gpt-5-family": "f85381532950d4a63f38bd4b6aa24f3ae0bda720cc48f0a14bdc7d142ff8658d",
    "pvc-judge": "29b423ffcac8d13a58e32269533df08ffb0543c23b83a6720d8d90bee1d1a160",
}


@pytest.mark.parametrize("name", STORED_KEYS)
def test_replies_that_are_stored_are_found(name):
    stream = io.BytesIO()
    Image.new("RGB", (2, 1), (9, 99, 199)).save(stream, "BMP")
    picture = picture_to_send(stream.getvalue(), "a", (4, 2), PRESETS[name])
    schema = {"type": "object", "required": ["score"]}
    ask = Ask("a sample", (picture, "well, 三?"), system="be fair", schema=schema, repeat=2)
    assert cache_key(ask, ChatClient(PRESETS[name], 5).parameters) == STORED_KEYS[name]
