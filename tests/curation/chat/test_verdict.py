"""Verdicts by a scripted server: what is asked, and what becomes of replies."""

import dataclasses

import pytest

from step1x_jax.curation.chat.stage import MOST_ATTEMPTS
from step1x_jax.curation.chat.verdict import Verdict
from step1x_jax.curation.engine.rows import Failed
from tests.asking.chat_server import error, serving
from tests.curation.chat.asking import QUICK, as_reply, in_turn, made, schema_of
from tests.curation.operators.tiny import encoded

GOOD = {
    "done": True,
    "unchanged": "the wall is as it was",
    "faults": ["a seam at the door"],
    "reason": "The door is green, with a seam.",
    "success": 9,
    "quality": 6,
}


def row(**changes):
    base = {"id": "a", "source": encoded(0), "target": encoded(1), "instruction_en": "Paint {it}"}
    return base | changes


def verdict(folder, *replies, given=None, **settings):
    """The outcome of a row whose replies are these, the last one ever after; and the server."""
    with serving(in_turn(*replies)) as server:
        stage = Verdict(endpoint=server.url, **{**QUICK, **settings})
        ((outcome,),), asked = made(stage, [given or row()], folder)
    return outcome, asked, server.questions


def test_what_is_asked_and_written(tmp_path):
    outcome, asked, (request,) = verdict(tmp_path, as_reply(GOOD))
    assert asked == 1
    assert outcome == {
        "verdict_success": 9.0,
        "verdict_quality": 6.0,
        "verdict_reason": "The door is green, with a seam.",
        "verdict": {
            "done": True,
            "unchanged": "the wall is as it was",
            "faults": ["a seam at the door"],
        },
    }
    assert {*outcome} == {*Verdict.writes}
    assert len(request.pictures) == 2
    assert request.pictures[0] != request.pictures[1]
    assert "Paint {it}" in request.text
    fields = schema_of(request)["properties"]
    assert list(fields) == list(GOOD)  # numbers last: they follow from what was seen
    assert fields["success"] == {"type": "integer", "minimum": 0, "maximum": 10}


def test_a_bad_verdict_leaves_out_nothing(tmp_path):
    bad = GOOD | {"done": False, "success": 0, "quality": 0, "faults": []}
    outcome, _, _ = verdict(tmp_path, as_reply(bad))
    assert (outcome["verdict_success"], outcome["verdict"]["done"]) == (0.0, False)


@pytest.mark.parametrize(
    "value",
    [
        "9",
        [9, 6],
        GOOD | {"success": 11},
        GOOD | {"quality": -1},
        GOOD | {"success": 7.5},
        GOOD | {"success": True},
        GOOD | {"success": "9"},
        GOOD | {"quality": None},
        GOOD | {"reason": ""},
        GOOD | {"reason": "x" * 1001},
        GOOD | {"faults": "a seam"},
        GOOD | {"faults": ["x"] * 21},
        GOOD | {"faults": ["x" * 1001]},
        GOOD | {"unchanged": "x" * 1001},
        GOOD | {"score": 9},
        {name: GOOD[name] for name in GOOD if name != "done"},
        GOOD | {"done": False},  # and a success of 9
    ],
)
def test_malformed_verdicts_are_asked_for_again_and_then_rejected(tmp_path, value):
    outcome, asked, requests = verdict(tmp_path, as_reply(value))
    assert (outcome.reason, outcome.columns) == ("verdict_malformed", {})
    assert asked == len(requests) == MOST_ATTEMPTS
    assert len({request.body["seed"] for request in requests}) == MOST_ATTEMPTS
    outcome, asked, _ = verdict(tmp_path / "again", as_reply(value), as_reply(GOOD))
    assert (outcome["verdict_success"], asked) == (9.0, 2)


def test_what_gets_no_reply(tmp_path):
    outcome, _, _ = verdict(tmp_path, error(400, "content_filter", "not that"))
    assert outcome.reason == "verdict_refused"
    outcome, asked, _ = verdict(tmp_path / "down", error(503, message="down"))
    assert (outcome, asked) == (Failed("NoReply", "status 503: down"), 0)


def test_kept_verdicts_are_not_asked_for_again(tmp_path):
    first, asked, _ = verdict(tmp_path, as_reply(GOOD))
    assert asked == 1
    assert verdict(tmp_path, as_reply({}))[:2] == (first, 0)
    for change in ({"target": encoded(2)}, {"source": encoded(2)}, {"instruction_en": "Else"}):
        assert verdict(tmp_path, as_reply(GOOD), given=row(**change))[1] == 1


def test_what_makes_verdicts_others(monkeypatch):
    one = Verdict(model="toy")
    assert dataclasses.replace(one, timeout=1.0).fingerprint() == one.fingerprint()
    assert dataclasses.replace(one, model="b").fingerprint() != one.fingerprint()
    before = one.fingerprint()
    monkeypatch.setattr(
        "step1x_jax.curation.chat.verdict.digest_prompts", lambda names: f"new {names}"
    )
    assert one.fingerprint() != before
