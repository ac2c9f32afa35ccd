"""Captions by a scripted server: what is asked, how often, and what becomes of replies."""

import collections
import dataclasses
import json
import threading

import pytest

from step1x_jax.curation.captions.caption import Caption
from step1x_jax.curation.captions.examples import read_bank
from step1x_jax.curation.captions.prompts import WRITE_SCHEMA
from step1x_jax.curation.categories import Category
from step1x_jax.curation.chat.stage import MOST_ATTEMPTS
from step1x_jax.curation.engine.rows import StopError
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.results import Results
from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from tests.asking.chat_server import completion, error, serving
from tests.curation.tiny_edits import tiny_config
from tests.curation.toys import drive

pytestmark = pytest.mark.parquet

COLUMNS = {
    "instruction_en": str,
    "instruction_cn": str,
    "caption_rounds": list[str],
    "caption_claims": list[str],
    "caption_examples": list[str],
    "instruction_by": str,
}


def kind_of(request):
    """first, next or write."""
    schema = request.body["response_format"]["json_schema"]["schema"]
    if schema == WRITE_SCHEMA:
        return "write"
    return "next" if "Somebody has described" in request.text else "first"


def good(request):
    """A model that does what it is asked."""
    replies = {
        "first": {"confirmed": [], "claims": ["it is brighter", "a bird is gone"]},
        "next": {"confirmed": [1], "claims": ["by one stop"]},
        "write": {"en": "Make it brighter", "cn": "让画面更亮"},
    }
    return completion(json.dumps(replies[kind_of(request)], ensure_ascii=False))


def captioned(server, **settings):
    """The pipeline with captions in place of templates."""
    config = override(tiny_config(), {"source.count": 4})
    caption = Caption(
        endpoint=server.url, model="toy", first_wait=0.001, concurrency=4, timeout=5.0
    )
    config.stages["words"] = dataclasses.replace(caption, **settings)
    config.validate()
    return config.pipeline()


def captions(pipeline, folder):
    """Rows behind the captions that had a category that can be captioned."""
    rows = Results(pipeline, Workdir(folder)).all({"category": str, **COLUMNS})
    return [row for row in rows if row["category"] in ("tone_transfer", "color_alter")]


def test_rounds_and_what_is_kept(tmp_path):
    with serving(good) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        rows = captions(pipeline, tmp_path)
        kinds = collections.Counter(map(kind_of, server.questions))
        assert len(rows) == 8
        assert kinds == {"first": 8, "next": 16, "write": 8}
        assert {row["status"] for row in rows} == {"ok"}
        row = rows[0]
        assert row["instruction_en"] == "Make it brighter"
        assert row["instruction_cn"] == "让画面更亮"
        assert row["instruction_by"] == "toy"
        assert [json.loads(one)["claims"] for one in row["caption_rounds"]] == [
            ["it is brighter", "a bird is gone"], ["by one stop"], ["by one stop"]
        ]  # fmt: skip
        assert row["caption_claims"] == ["it is brighter", "by one stop"]
        request = next(r for r in server.questions if kind_of(r) == "next")
        assert "1. it is brighter\n2. a bird is gone" in request.text
        assert len(request.pictures) == 2
        assert request.pictures[0].startswith("data:image/png;base64,")
        # the third round is a question of its own, even where it is the same words
        texts = collections.Counter(json.dumps(r.body, sort_keys=True) for r in server.questions)
        assert set(texts.values()) == {1}


def test_rounds_that_ask_the_same_are_asked_each(tmp_path):
    """Each confirms all that it is given: the third question has the words of the second."""

    def script(request):
        if kind_of(request) != "next":
            return good(request)
        return completion(json.dumps({"confirmed": [1, 2], "claims": []}))

    with serving(script) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        asked = [r for r in server.questions if kind_of(r) == "next"]
        assert len(asked) == 16
        assert len({r.text for r in asked}) == 2  # one for each category
        assert len({r.body["seed"] for r in asked}) == 2
        assert {tuple(row["caption_claims"]) for row in captions(pipeline, tmp_path)} == {
            ("it is brighter", "a bird is gone")
        }


def test_a_warm_cache_asks_nothing(tmp_path):
    with serving(good) as server:
        pipeline = captioned(server)
        first = drive(pipeline, tmp_path)
        asked = len(server.questions)
        for part in (tmp_path / "stages/words").iterdir():
            part.unlink()
        assert drive(pipeline, tmp_path) == first
        assert len(server.questions) == asked
        parts = Workdir(tmp_path).parts("words").values()
        assert sum(part.calls for part in parts) == 0
        # other words are others to ask
        changed = captioned(server, examples=1)
        drive(changed, tmp_path)
        again = collections.Counter(map(kind_of, server.questions[asked:]))
        assert again == {"write": 8}


def test_examples_are_those_that_are_recorded(tmp_path):
    with serving(good) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        rows = captions(pipeline, tmp_path)
        asked = [r.text for r in server.questions if kind_of(r) == "write"]
        choices = set()
        for row in rows:
            shown = row["caption_examples"]
            bank = read_bank()[Category(row["category"])]
            assert set(shown[:3]) <= set(bank["cn"])
            assert set(shown[3:]) <= set(bank["en"])
            assert len(set(shown)) == 6
            lines = "\n".join(f"- {text}" for text in shown)
            assert any(lines in text for text in asked)
            choices.add(tuple(shown))
        assert len(choices) > 4
        other = captioned(server)
        drive(dataclasses.replace(other, seed=1), tmp_path / "other")
        others = {tuple(row["caption_examples"]) for row in captions(
            dataclasses.replace(other, seed=1), tmp_path / "other"
        )}  # fmt: skip
        assert not choices & others


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"confirmed": []}',
        '{"confirmed": [1], "claims": []}',  # it was given none
        '{"confirmed": [], "claims": [""]}',
        '{"confirmed": [], "claims": "x"}',
        '{"confirmed": [], "claims": ["x"], "more": 1}',
        "",
    ],
)
def test_malformed_replies_are_asked_for_again_and_then_rejected(tmp_path, text):
    with serving(lambda request: completion(text)) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        assert len(server.questions) == 8 * MOST_ATTEMPTS == 32
        rows = captions(pipeline, tmp_path)
        assert {(row["status"], row["reason"]) for row in rows} == {
            ("rejected", "caption_malformed")
        }
        assert {row["instruction_en"] for row in rows} == {None}
        drive(captioned(server, timeout=6.0), tmp_path)
        assert len(server.questions) == 32


def test_a_fifth_of_the_replies_is_malformed(tmp_path):
    """Every fifth reply: all rows get there, and no question is asked more often than it may be."""
    count = 0
    lock = threading.Lock()

    def script(request):
        nonlocal count
        with lock:
            count += 1
            bad = count % 5 == 0
        return completion("{") if bad else good(request)

    with serving(script) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        rows = captions(pipeline, tmp_path)
        assert [row["status"] for row in rows] == ["ok"] * 8
        assert 32 + 32 // 5 <= len(server.questions) <= 45


def test_reasoning_and_fences_are_taken_away(tmp_path):
    def script(request):
        text = json.loads(good(request).body["choices"][0]["message"]["content"])
        return completion(f"<think>{{}}</think>\n```json\n{json.dumps(text)}\n```")

    with serving(script) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        assert {row["status"] for row in captions(pipeline, tmp_path)} == {"ok"}


@pytest.mark.parametrize(
    ("english", "chinese", "reason"),
    [
        ("Make it 亮", "更亮", "caption_english_has_han"),
        ("Make it brighter", "Make it brighter", "caption_chinese_has_no_han"),
        ('Write "A"', "写上“B”", "caption_quotations_differ"),
        ("", "更亮", "caption_instruction_missing"),
        ('Write "A"', "写上“A”", ""),
    ],
)
def test_languages(tmp_path, english, chinese, reason):
    def script(request):
        if kind_of(request) != "write":
            return good(request)
        return completion(json.dumps({"en": english, "cn": chinese}))

    with serving(script) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        rows = captions(pipeline, tmp_path)
        assert {row["reason"] for row in rows} == {reason}
        assert {len(row["caption_rounds"]) for row in rows} == {3}  # stored, whatever came of it
        assert {row["instruction_en"] for row in rows} == {english}


def test_what_no_round_confirms(tmp_path):
    def script(request):
        number = len([1 for _ in request.body])  # whatever: each round states something else
        claims = {"first": ["a"], "next": [f"b{number}"]}
        if kind_of(request) == "write":
            return good(request)
        reply = {"confirmed": [], "claims": claims[kind_of(request)]}
        return completion(json.dumps(reply))

    with serving(script) as server:
        pipeline = captioned(server, needed=3)
        drive(pipeline, tmp_path)
        rows = captions(pipeline, tmp_path)
        assert {row["reason"] for row in rows} == {"caption_unconfirmed"}
        assert "write" not in set(map(kind_of, server.questions))


def test_refused(tmp_path):
    with serving(lambda request: error(400, "content_filter", "not that")) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path)
        assert {row["reason"] for row in captions(pipeline, tmp_path)} == {"caption_refused"}


def test_a_dead_endpoint(tmp_path):
    """It ends in one sentence, keeps what was done, and goes on where it was."""
    with serving(good) as server:
        pipeline = captioned(server)
        drive(pipeline, tmp_path / "whole")
    with serving(lambda request: error(503, message="down")) as server:
        dead = captioned(server)
        with pytest.raises(StopError, match=r"words failed for .* NoReply \(status 503: down\)"):
            drive(dead, tmp_path / "run")
        assert len(server.questions) == 8 * MOST_ATTEMPTS
    with pytest.raises(StopError, match="NoReply"):  # nobody listens any more
        drive(captioned(server), tmp_path / "run")
    with serving(good) as server:
        assert (
            drive(captioned(server), tmp_path / "run")
            == (tmp_path / "whole/manifest.json").read_bytes()
        )


def test_an_endpoint_that_will_not_ever_answer(tmp_path):
    with serving(lambda request: error(401, message="no such key")) as server:
        with pytest.raises(StopError, match=r"no such key; check the key"):
            drive(captioned(server), tmp_path)
        assert len(server.questions) <= 4  # those that were under way


def test_an_endpoint_that_dies_halfway(tmp_path):
    """What was paid for is not paid for again."""
    with serving(good) as server:
        drive(captioned(server), tmp_path / "whole")
        needed = len(server.questions)
    answered = 0
    lock = threading.Lock()

    def dying(request):
        nonlocal answered
        with lock:
            if answered == 13:
                return error(402, message="no money")
            answered += 1
        return good(request)

    with serving(dying) as server, pytest.raises(StopError, match="pay for more"):
        drive(captioned(server), tmp_path / "run")
    with serving(good) as server:
        drive(captioned(server), tmp_path / "run")
        assert len(server.questions) == needed - 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "localhost"}, "endpoint"),
        ({"model": ""}, "model"),
        ({"rounds": 0}, "rounds"),
        ({"needed": 4}, "needed"),
        ({"examples": 7}, "examples"),
        ({"timeout": 0.0}, "timeout"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_settings_that_cannot_be(change, message):
    caption = Caption(model="toy")
    caption.validate()
    with pytest.raises(UserError, match=message):
        dataclasses.replace(caption, **change).validate()


def test_what_makes_captions_others(monkeypatch):
    one = Caption(model="toy")
    for same in ({"endpoint": "http://other/v1"}, {"timeout": 1.0}, {"concurrency": 1}):
        assert dataclasses.replace(one, **same).fingerprint() == one.fingerprint()
    for other in ({"model": "b"}, {"revision": "2"}, {"temperature": 0.0}, {"rounds": 2}):
        assert dataclasses.replace(one, **other).fingerprint() != one.fingerprint()
    before = one.fingerprint()
    monkeypatch.setattr("step1x_jax.curation.captions.caption.prompts_digest", lambda: "new")
    assert one.fingerprint() != before
