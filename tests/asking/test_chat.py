import base64
import dataclasses
import datetime
import email.utils
import socket
import time

import pytest

from step1x_jax.asking.ask import AskLimits, ask_all
from step1x_jax.asking.cache import open_cache
from step1x_jax.asking.chat import ChatClient
from step1x_jax.asking.exchange import Ask, QuestionPicture, Served
from step1x_jax.asking.failures import read_failure, read_retry_after
from step1x_jax.asking.preset import LOCAL, OPENAI, ChatPreset
from step1x_jax.errors import UserError
from tests.asking.chat_server import Response, completion, error, serving

OTHERWISE = "ask in another folder"
PRESET = ChatPreset(endpoint=LOCAL, model="toy-1", max_tokens=512, temperature=0)
OF_OPENAI = dataclasses.replace(PRESET, endpoint=OPENAI)
LIMITS = AskLimits(max_attempts=3, concurrency=2, first_wait=0.001)
GOOD = completion('{"score": [7, 8]}')
KEY = "secret-key-of-a-test"


def parse(ask, text):
    return text if text.startswith('{"score": [') and text.endswith("]}") else None


def asked(folder, server, questions=("q",), preset=PRESET, timeout=5.0, **more):
    """Asks questions of a server; gives status by question."""
    client = ChatClient(dataclasses.replace(preset, endpoint=server.url), timeout, **more)
    asks = [Ask(name, (name,)) for name in questions]
    with open_cache(folder, OTHERWISE) as cache:
        answers = {one.id: one for one in ask_all(asks, client, cache, LIMITS, parse)}
    client.close()
    return answers


def scripted(*responses):
    """The first, second, ... response to each question; the last one ever after."""
    return lambda request: responses[min(request.number, len(responses) - 1)]


def one_after_another(folder, *responses, **more):
    """The answer to one question, and how many requests it took."""
    with serving(scripted(*responses)) as server:
        answer = asked(folder, server, **more)["q"]
        return answer, len(server.questions)


BAD_REQUEST = error(400, "context_length_exceeded", "too long")


@pytest.mark.parametrize(
    ("responses", "status", "calls"),
    [
        ([GOOD], "ok", 1),
        ([error(429, "rate_limit_exceeded"), GOOD], "ok", 2),
        ([error(500), error(503), GOOD], "ok", 3),
        ([error(500)], "failed", 3),
        ([error(429)], "failed", 3),
        ([error(408), GOOD], "ok", 2),
        ([BAD_REQUEST], "failed", 1),
        ([error(413)], "failed", 1),
        ([Response(200, b"<html>busy</html>"), GOOD], "ok", 2),
        ([Response(200, b'{"choices": [')], "failed", 3),
        ([Response(200, b"\xff\xfe"), GOOD], "ok", 2),
        ([Response(200, b"[" * 100_000)], "failed", 3),
        ([Response(200, b" " * (2 << 20)), GOOD], "ok", 2),
        ([Response(200, {"choices": []}), GOOD], "ok", 2),
        ([Response(200, {"choices": [{"message": {"content": 7}}]})], "failed", 3),
        ([completion("The edit is good."), GOOD], "ok", 2),
        ([completion("The edit is good.")], "unparsable", 3),
        ([completion("")], "unparsable", 3),
        ([completion(None)], "unparsable", 3),
        ([completion("", end="content_filter")], "refused", 3),
        ([completion(None, end="SAFETY"), GOOD], "ok", 2),
        ([completion(None, refusal="I cannot help with that.")], "refused", 3),
        ([error(400, "content_filter")], "refused", 3),
        ([error(400, "invalid_prompt"), GOOD], "ok", 2),
        ([error(500, "content_filter")], "failed", 3),
        (
            [Response(400, {"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}})],
            "refused",
            3,
        ),
        (
            [Response(403, {"error": {"code": 403, "metadata": {"flagged_input": "..."}}})],
            "refused",
            3,
        ),
    ],
)
def test_what_becomes_of_a_question_and_how_many_calls_it_takes(tmp_path, responses, status, calls):
    answer, number = one_after_another(tmp_path, *responses)
    assert (answer.status, number) == (status, calls)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (error(401, "invalid_api_key"), "check the key, which the setting key_variable names"),
        (error(403), "check the key"),
        (error(402), "pay"),
        (error(429, "insufficient_quota", "You exceeded your current quota"), "exceeded .* pay"),
        (error(404, "model_not_found"), "settings endpoint and model"),
        (Response(404, {"message": "The model `x` does not exist.", "code": 404}), "not exist"),
        (error(400, "model_not_found"), "settings endpoint and model"),
        (Response(404, b"not found"), "settings endpoint and model"),
        (Response(301, b"", {"Location": "https://elsewhere/v1"}), "elsewhere"),
        (
            Response(400, {"error": {"param": "max_tokens", "code": "unsupported_parameter"}}),
            "all requests have max_tokens",
        ),
        (
            Response(400, {"error": {"param": "temperature", "code": "unsupported_value"}}),
            "all requests have temperature",
        ),
    ],
)
def test_what_ends_the_run_at_the_first_call(tmp_path, response, words):
    with serving(lambda request: response) as server:
        with pytest.raises(UserError, match=words) as raised:
            asked(tmp_path, server, [f"q{i}" for i in range(50)])
        assert len(server.questions) <= LIMITS.concurrency
        assert "\n" not in str(raised.value)


def test_retry_after_is_obeyed(tmp_path):
    begun = time.monotonic()
    answer, calls = one_after_another(tmp_path, error(429, headers={"Retry-After": "1"}), GOOD)
    assert (answer.status, calls) == ("ok", 2)
    assert time.monotonic() - begun >= 1


def test_retry_after_as_seconds_and_as_a_date():
    assert read_retry_after(None) is None
    assert read_retry_after("soon") is None
    assert read_retry_after("nan") is None
    assert read_retry_after("2.5") == 2.5
    assert read_retry_after("-3") == 0
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    for date in (email.utils.format_datetime(then, usegmt=True), email.utils.format_datetime(then)):
        assert 85 < read_retry_after(date) <= 90
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 -0000") == 0


@pytest.mark.parametrize(
    "slow", [dataclasses.replace(GOOD, delay=30), dataclasses.replace(GOOD, drip=0.1)]
)
def test_a_server_that_hangs_or_drips_is_left_in_time(tmp_path, slow):
    begun = time.monotonic()
    answer, calls = one_after_another(tmp_path, slow, timeout=0.3)
    assert (answer.status, calls) == ("failed", 3)
    assert answer.reason == "no reply within 0.3 s"
    assert time.monotonic() - begun < 15


def test_a_server_that_is_not_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    preset = dataclasses.replace(PRESET, endpoint=f"http://127.0.0.1:{port}/v1")
    client = ChatClient(preset, 5)
    assert client.describe() == Served()
    with open_cache(tmp_path, OTHERWISE) as cache:
        (answer,) = ask_all([Ask("q", ("q",))], client, cache, LIMITS, parse)
    assert answer.status == "failed"
    assert "ConnectError" in answer.reason


def test_the_served_model_changes(tmp_path):
    names = iter(["a-1", "a-1", "a-2"])
    with serving(lambda request: completion('{"score": [1, 2]}', next(names))) as server:
        asked(tmp_path, server, ["one"])
        asked(tmp_path, server, ["two"])
        with pytest.raises(UserError, match="'a-2', and as 'a-1' before"):
            asked(tmp_path, server, ["three"])


def test_the_request_is_as_the_preset_says():
    data = b"bytes of a picture"
    schema = {"type": "object"}
    answer = {"name": "answer", "strict": True, "schema": schema}
    bare = {"model": "toy-1", "max_tokens": 512}
    cases = [
        ({"temperature": None}, bare),
        ({}, bare | {"temperature": 0}),
        ({"temperature": 0.7, "seed": 42}, bare | {"temperature": 0.7, "seed": 42 + 2000 + 1}),
        ({"picture_format": "JPEG"}, bare | {"temperature": 0}),
        (
            {"token_limit": "max_completion_tokens", "temperature": None, "structured": True},
            {
                "model": "toy-1",
                "max_completion_tokens": 512,
                "response_format": {"type": "json_schema", "json_schema": answer},
            },
        ),
    ]
    for change, expected in cases:
        preset = dataclasses.replace(PRESET, **change)
        with serving(lambda request: GOOD) as server:
            client = ChatClient(dataclasses.replace(preset, endpoint=server.url), 5)
            parts = ("look:", QuestionPicture("x", lambda: data), "well?")
            client.answer(Ask("q", parts, system="be fair", schema=schema, repeat=2), attempt=1)
            body = server.questions[0].body
        picture = {
            "type": "image_url",
            "image_url": {
                "url": f"data:image/{preset.picture_format.lower()};base64,"
                + base64.b64encode(data).decode()
            },
        }
        texts = [{"type": "text", "text": text} for text in ("look:", "well?")]
        assert body.pop("messages") == [
            {"role": "system", "content": "be fair"},
            {"role": "user", "content": [texts[0], picture, texts[1]]},
        ]
        assert body == expected


def test_what_is_kept_of_a_reply(tmp_path):
    response = completion('{"score": [1, 2]}', "toy-1", end="length")
    response.body["provider"] = "somebody"
    answer, _ = one_after_another(tmp_path, response)
    (reply,) = answer.replies
    assert (reply.text, reply.model, reply.finish_reason) == (
        '{"score": [1, 2]}',
        "toy-1",
        "length",
    )
    assert (reply.provider, reply.input_tokens, reply.output_tokens) == ("somebody", 100, 10)
    assert reply.host.startswith("127.0.0.1:")
    assert 0 <= reply.seconds < 5
    assert datetime.datetime.fromisoformat(reply.time).tzinfo is not None


def test_a_reply_of_any_signs_can_be_kept(tmp_path):
    text = "\x00" * 150_000 + "三" * 10_000
    answer, calls = one_after_another(tmp_path, completion(text), GOOD)
    assert (answer.status, calls) == ("ok", 2)
    with open_cache(tmp_path, OTHERWISE) as cache:
        assert [reply.text for reply in cache.every()] == [text, '{"score": [7, 8]}']


def test_fields_of_another_kind_do_not_cost_the_reply(tmp_path):
    response = completion('{"score": [1, 2]}')
    response.body |= {"provider": {"name": "x"}, "usage": {"prompt_tokens": None}, "more": [1]}
    answer, calls = one_after_another(tmp_path, response)
    assert (answer.status, calls) == ("ok", 1)
    assert (answer.replies[0].provider, answer.replies[0].input_tokens) == ("", 0)


def test_a_key_is_sent_where_it_belongs_and_is_in_no_message(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("TOY_KEY", f"{KEY}\n")
    echo = error(401, message=f"wrong key {KEY}")
    with serving(lambda request: echo) as server:
        with pytest.raises(UserError) as raised:
            asked(tmp_path, server, key_variable="TOY_KEY")
        assert server.requests[-1].key == f"Bearer {KEY}"
        assert "wrong key ..." in str(raised.value)
        with pytest.raises(UserError):
            asked(tmp_path, server)
        assert server.requests[-1].key == ""
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        ChatClient(OF_OPENAI, 5).describe()
    monkeypatch.setenv("TOY_KEY", "two\nlines")
    with pytest.raises(UserError, match="TOY_KEY holds no key"):
        ChatClient(OF_OPENAI, 5, "TOY_KEY")


def test_what_the_server_says_of_its_model():
    model = {"id": PRESET.model, "owned_by": "vllm", "quantization": "awq"}
    others = {"id": "other", "owned_by": "x"}
    cases = [
        (Response(404), Served()),
        (Response(200, b"{"), Served()),
        (Response(200, {"data": [others]}), Served()),
        (Response(200, {"data": [others, model]}), Served("vllm", "awq")),
        (
            Response(200, {"data": [model | {"shutdown_date": "2027-01-14"}]}),
            Served("vllm", "awq", "2027-01-14"),
        ),
        (
            Response(200, {"data": [model | {"shutdown_date": 1799884800}]}),
            Served("vllm", "awq", "2027-01-14"),
        ),
    ]
    for response, expected in cases:
        with serving(lambda request: GOOD, models=response) as server:
            client = ChatClient(dataclasses.replace(PRESET, endpoint=server.url), 5)
            assert client.describe() == expected
    with serving(lambda request: GOOD, models=error(401)) as server:
        client = ChatClient(dataclasses.replace(PRESET, endpoint=server.url), 5)
        with pytest.raises(UserError, match="check the key"):
            client.describe()


def test_errors_of_any_form_are_read():
    assert read_failure(500, b"").message == "no explanation"
    assert read_failure(500, b'"text"').message == "no explanation"
    assert read_failure(500, b'{"error": "overloaded"}').message == "overloaded"
    assert read_failure(429, b'[{"error": {"message": "a\\nb", "code": 429}}]').message == "a b"
    assert read_failure(500, b"[" * 100_000).message == "no explanation"
    assert len(read_failure(500, b'{"error": "%s"}' % (b"x" * 5000)).message) == 300


def test_no_address():
    with pytest.raises(UserError, match="is no address"):
        ChatClient(dataclasses.replace(PRESET, endpoint="http://a b:port"), 5)
