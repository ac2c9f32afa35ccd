"""Plans of edits by a scripted server: what is asked, and what becomes of replies."""

import dataclasses

import pytest

from step1x_jax.curation.categories import Category
from step1x_jax.curation.chat.plan_edits import PlanEdits, plan_text, read_kinds
from step1x_jax.curation.chat.stage import MOST_ATTEMPTS
from step1x_jax.curation.engine.rows import Failed, Rejected
from step1x_jax.errors import UserError
from tests.asking.chat_server import completion, error, serving
from tests.curation.chat.asking import QUICK, as_reply, in_turn, made, schema_of
from tests.curation.operators.tiny import encoded

COLOUR = {
    "category": "color_alter",
    "instruction": "Paint  the door green",
    "target": "A green door.",
}
STYLE = {"category": "style_change", "instruction": "Make it ink", "target": "A door, in ink."}


def rows(count=2):
    return [{"id": f"r{i}", "picture": encoded(i), "tags": None} for i in range(count)]


def planned(server, folder, given=None, **settings):
    stage = PlanEdits(endpoint=server.url, **{**QUICK, **settings})
    return made(stage, rows() if given is None else given, folder)


def of_one(folder, *replies, **settings):
    """Outcomes of one row whose replies are these, the last one ever after; and the requests."""
    with serving(in_turn(*replies)) as server:
        (outcomes,), asked = planned(server, folder, rows(1), **settings)
        assert asked == len(server.questions)
    return outcomes, asked


def test_each_planned_edit_is_a_row(tmp_path):
    with serving(lambda request: as_reply({"edits": [COLOUR, STYLE]})) as server:
        given = rows()
        outcomes, asked = planned(server, tmp_path, given)
        assert asked == len(server.questions) == 2
    for row, edits in zip(given, outcomes, strict=True):
        assert edits == [
            {
                "category": "color_alter",
                "source": row["picture"],
                "instruction_en": "Paint the door green",
                "instruction_by": "toy",
                "target_prompt": "A green door.",
            },
            {
                "category": "style_change",
                "source": row["picture"],
                "instruction_en": "Make it ink",
                "instruction_by": "toy",
                "target_prompt": "A door, in ink.",
            },
        ]
        assert {*edits[0]} == {*PlanEdits.writes}


def test_what_is_asked(tmp_path):
    kinds = ("color_alter", "text_change")
    with serving(lambda request: as_reply({"edits": [COLOUR]})) as server:
        given = [rows(1)[0] | {"tags": ["a cat", "{kinds}"]}]
        planned(server, tmp_path, given, categories=kinds, count=2)
        (request,) = server.questions
    assert len(request.pictures) == 1
    assert "at most 2" in request.text
    lines = [line for line in request.text.splitlines() if line.split(":")[0][2:] in set(Category)]
    assert [line.split(":")[0] for line in lines] == ["- color_alter", "- text_change"]
    assert "has found: a cat, {kinds}." in request.text
    edits = schema_of(request)["properties"]["edits"]
    assert edits["maxItems"] == 2
    assert edits["items"]["properties"]["category"]["enum"] == list(kinds)
    assert "detector" not in plan_text(2, kinds, ())


@pytest.mark.parametrize(
    "value",
    [
        "no JSON",
        [],
        {},
        {"edits": [COLOUR | {"category": "ps_human"}]},  # a category, and not asked for
        {"edits": [COLOUR, STYLE | {"category": "dance"}]},
        {"edits": [COLOUR, STYLE, COLOUR]},
        {"edits": [COLOUR | {"instruction": "x" * 601}]},
        {"edits": [COLOUR | {"target": "x" * 601}]},
        {"edits": [{"category": "color_alter", "instruction": "Paint it"}]},
        {"edits": [COLOUR | {"target": None}]},
        {"edits": COLOUR},
        {"edits": [COLOUR], "more": 1},
    ],
)
def test_malformed_plans_are_asked_for_again_and_then_rejected(tmp_path, value):
    settings = {"categories": ("color_alter", "style_change"), "count": 2}
    (one,), asked = of_one(tmp_path, as_reply(value), **settings)
    assert (one.reason, asked) == ("plan_malformed", MOST_ATTEMPTS)
    assert one.columns == {}
    edits, asked = of_one(
        tmp_path / "again", as_reply(value), as_reply({"edits": [STYLE]}), **settings
    )
    assert ([edit["category"] for edit in edits], asked) == (["style_change"], 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instruction": "Paint the 门 green"}, "plan_english_has_han"),
        ({"target": "一扇绿色的门"}, "plan_english_has_han"),
        ({"instruction": " "}, "plan_instruction_missing"),
        ({"target": ""}, "plan_instruction_missing"),
        ({"instruction": 'Write "门" on the door'}, None),
    ],
)
def test_texts_are_english(tmp_path, change, reason):
    """An edit of which one is not is left out by itself, with what it is."""
    (one, other), asked = of_one(tmp_path, as_reply({"edits": [COLOUR | change, STYLE]}))
    assert asked == 1
    assert other["instruction_en"] == "Make it ink"
    if reason is None:
        assert one["instruction_en"] == change["instruction"]
    else:
        assert isinstance(one, Rejected)
        assert (one.reason, one.columns["category"]) == (reason, "color_alter")


def test_a_photograph_that_allows_nothing(tmp_path):
    (one,), asked = of_one(tmp_path, as_reply({"edits": []}))
    assert (one.reason, asked) == ("plan_empty", 1)


def test_what_gets_no_reply(tmp_path):
    (one,), asked = of_one(tmp_path, error(400, "content_filter", "not that"))
    assert (one.reason, asked) == ("plan_refused", MOST_ATTEMPTS)
    with serving(lambda request: error(503, message="down")) as server:
        outcomes, asked = planned(server, tmp_path / "down")
        assert asked == 0
        assert len(server.questions) == 2 * MOST_ATTEMPTS
    assert outcomes == [[Failed("NoReply", "status 503: down")]] * 2


def test_a_picture_that_cannot_be_sent(tmp_path):
    with serving(lambda request: as_reply({"edits": [COLOUR]})) as server:
        given = [rows(1)[0] | {"picture": b"x"}, rows(2)[1]]
        ((bad,), (good,)), asked = planned(server, tmp_path, given)
    assert (bad.reason, good["category"], asked) == ("unreadable_picture", "color_alter", 1)


def test_kept_plans_are_not_asked_for_again(tmp_path):
    with serving(lambda request: as_reply({"edits": [COLOUR]})) as server:
        first, asked = planned(server, tmp_path)
        assert asked == 2
        assert planned(server, tmp_path, timeout=6.0) == (first, 0)
        assert len(server.questions) == 2
        for change in ({"count": 2}, {"categories": ("color_alter",)}, {"temperature": 0.5}):
            assert planned(server, tmp_path, **change) == (first, 2)
            assert planned(server, tmp_path, **change) == (first, 0)


def test_another_revision_is_asked_anew(tmp_path):
    names = {"": "toy-a", "v2": "toy-b"}
    for revision, name in names.items():
        reply = completion('{"edits": []}', name)
        with serving(lambda request: reply) as server:  # noqa: B023
            assert planned(server, tmp_path, revision=revision)[1] == 2
            assert planned(server, tmp_path, revision=revision)[1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "localhost"}, "endpoint"),
        ({"model": ""}, "model"),
        ({"count": 0}, "count"),
        ({"count": 21}, "count"),
        ({"categories": ()}, "categories"),
        ({"categories": ("dance",)}, "categories"),
        ({"categories": ("ps_human", "ps_human")}, "categories"),
    ],
)
def test_settings_that_cannot_be(change, message):
    stage = PlanEdits(model="toy")
    stage.validate()
    with pytest.raises(UserError, match=message):
        dataclasses.replace(stage, **change).validate()


def test_what_makes_plans_others(monkeypatch):
    one = PlanEdits(model="toy")
    assert dataclasses.replace(one, endpoint="http://x/v1").fingerprint() == one.fingerprint()
    for other in ({"count": 2}, {"categories": ("color_alter",)}, {"revision": "2"}):
        assert dataclasses.replace(one, **other).fingerprint() != one.fingerprint()
    before = one.fingerprint()
    monkeypatch.setattr(
        "step1x_jax.curation.chat.plan_edits.digest_prompts", lambda names: f"new {names}"
    )
    assert one.fingerprint() != before


def test_every_category_is_explained():
    assert set(read_kinds()) == set(Category)
    assert len(set(read_kinds().values())) == len(Category)
