import dataclasses
import json

import pytest

from step1x_jax.asking.cache import NAME, cache_key, look_into_cache, open_cache
from step1x_jax.asking.exchange import Ask, QuestionPicture, Reply
from step1x_jax.errors import UserError

OTHERWISE = "ask in another folder"
PARAMETERS = {"model": "m", "max_tokens": 5}
ASK = Ask("one", ("text", QuestionPicture("abc", bytes)))


def test_replies_come_back_as_they_were(tmp_path):
    first = Reply("line\nand „quotes“ 三", model="m1", input_tokens=3, seconds=0.5)
    with open_cache(tmp_path, OTHERWISE) as cache:
        kept = cache.append("k", "id", "m", first)
        assert cache.append("k", "id", "m", first).text == first.text
        cache.append("other", "id", "m", Reply("x", model="m1"))
    assert dataclasses.replace(kept, time="") == first
    for cache in (look_into_cache(tmp_path), *_opened(tmp_path)):
        assert cache.replies("k")[0] == kept
        assert len(cache.replies("k")) == 2
        assert cache.replies("none") == ()
        assert len(cache.every()) == 3


def _opened(folder):
    with open_cache(folder, OTHERWISE) as cache:
        yield cache


# A line as files have it since there are any.
STORED = (
    r'{"key": "42e107", "id": "a sample", "asked": "toy/model", "reply": {"text":'
    r' "{\"score\": [7]} „三“", "finish_reason": "stop", "refused": false, "model": "served-1",'
    r' "provider": "vllm", "host": "127.0.0.1:8000", "input_tokens": 100, "output_tokens": 10,'
    r' "seconds": 0.5, "time": "2026-11-30T08:54:44+00:00"}}'
)


def test_the_form_of_the_file_stays(tmp_path):
    (tmp_path / "replies.jsonl").write_text(f"{STORED}\n")
    (reply,) = look_into_cache(tmp_path).replies("42e107")
    assert reply == Reply(
        text='{"score": [7]} „三“',
        finish_reason="stop",
        model="served-1",
        provider="vllm",
        host="127.0.0.1:8000",
        input_tokens=100,
        output_tokens=10,
        seconds=0.5,
        time="2026-11-30T08:54:44+00:00",
    )
    with open_cache(tmp_path / "new", OTHERWISE) as cache:
        kept = cache.append("42e107", "a sample", "toy/model", reply)
    line = (tmp_path / "new/replies.jsonl").read_text()
    assert line == STORED.replace(reply.time, kept.time) + "\n"


def test_a_line_that_was_cut_off_is_dropped_and_the_next_is_whole(tmp_path):
    with open_cache(tmp_path, OTHERWISE) as cache:
        for text in ("a", "b"):
            cache.append(text, "id", "m", Reply(text))
    path = tmp_path / NAME
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        before = look_into_cache(tmp_path)
        assert path.read_bytes() == whole[:cut]  # looking changes nothing
        with open_cache(tmp_path, OTHERWISE) as cache:
            for one in (before, cache):
                assert [r.text for key in "ab" for r in one.replies(key)] == ["a"]
            cache.append("c", "id", "m", Reply("c"))
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    with open_cache(tmp_path, OTHERWISE) as cache:
        cache.append("a", "id", "m", Reply("a"))
    path = tmp_path / NAME
    line = path.read_bytes()
    for damaged in (b"{}\n", b"nonsense\n", line.replace(b'"seconds": 0.0', b'"seconds": "x"')):
        path.write_bytes(line + damaged + line)
        with pytest.raises(UserError, match="line 2"), open_cache(tmp_path, OTHERWISE):
            pass


def test_two_processes_do_not_share_a_file(tmp_path):
    with open_cache(tmp_path, OTHERWISE):
        with (
            pytest.raises(UserError, match=r"another process .* or ask in another folder"),
            open_cache(tmp_path, OTHERWISE),
        ):
            pass
        assert look_into_cache(tmp_path).every() == []
    with open_cache(tmp_path, OTHERWISE):
        pass


def test_another_model_is_not_mixed_in(tmp_path):
    with open_cache(tmp_path, OTHERWISE) as cache:
        cache.append("a", "id", "m", Reply("a", model="m-1"))
        cache.append("b", "id", "m", Reply("refused", refused=True))  # nobody's name
        cache.append("c", "id", "another", Reply("c", model="n-1"))  # it was asked for
    with open_cache(tmp_path, OTHERWISE) as cache:
        cache.append("d", "id", "m", Reply("d", model="m-1"))
        with pytest.raises(UserError, match=r"'m-2', and as 'm-1'.* or ask in another folder"):
            cache.append("e", "id", "m", Reply("e", model="m-2"))
    assert len(look_into_cache(tmp_path).every()) == 4


def test_nothing_is_added_after_closing(tmp_path):
    with open_cache(tmp_path, OTHERWISE) as cache:
        pass
    cache.append("a", "id", "m", Reply("late"))
    assert look_into_cache(tmp_path).every() == []


def test_the_key_covers_all_that_a_reply_depends_on():
    same = [
        (dataclasses.replace(ASK, id="two", subject=3), PARAMETERS),
        (dataclasses.replace(ASK, schema={"type": "object"}), PARAMETERS),  # it is not sent
        (ASK, dict(reversed(PARAMETERS.items()))),
    ]
    other = [
        (dataclasses.replace(ASK, repeat=1), PARAMETERS),
        (dataclasses.replace(ASK, system="s"), PARAMETERS),
        (dataclasses.replace(ASK, parts=("text", QuestionPicture("abd", bytes))), PARAMETERS),
        (dataclasses.replace(ASK, parts=("text!", QuestionPicture("abc", bytes))), PARAMETERS),
        (dataclasses.replace(ASK, parts=(QuestionPicture("abc", bytes), "text")), PARAMETERS),
        (dataclasses.replace(ASK, parts=("text", "abc")), PARAMETERS),
        (ASK, PARAMETERS | {"model": "n"}),
        (ASK, PARAMETERS | {"max_tokens": 6}),
        (ASK, PARAMETERS | {"temperature": 0}),
        (dataclasses.replace(ASK, schema={"type": "a"}), PARAMETERS | {"structured": True}),
        (dataclasses.replace(ASK, schema={"type": "b"}), PARAMETERS | {"structured": True}),
    ]
    keys = [cache_key(ask, parameters) for ask, parameters in [(ASK, PARAMETERS), *other]]
    assert len({*keys}) == len(keys)
    assert {cache_key(ask, parameters) for ask, parameters in same} == {keys[0]}


def test_an_object_store_is_refused():
    with (
        pytest.raises(UserError, match="object store"),
        open_cache("gs://bucket/results", OTHERWISE),
    ):
        pass
