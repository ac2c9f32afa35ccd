"""Winners in replies: those of the golden file, and odd ones."""

import json

import pytest

from step1x_jax.evaluation.pairwise.replies import LONGEST, SCHEMA, find_winner
from tests.golden import VECTORS

ROWS = json.loads((VECTORS / "gedit2_judge_replies.json").read_text())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["reply"][:30])
def test_recommended_verdicts(row):
    assert find_winner(row["reply"]) == row["recommended"]


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ('{"winner": "Image A"} and again {"winner": "image a"}', "first"),
        ('{"winner": "Image A", "winner": "Image B"}', None),
        ('{"winner": "Image A"} {"winner": "none"}', None),
        ('{"winner": "both"}', None),
        ('{"winner": ["Image A"]}', None),
        ('{"winner": "Image A"', None),
        ('<think>{"winner": "Image A"}', None),  # cut off while it thought
        ('{"winner": "Image A"}</think>{"winner": "B"}', "second"),
        ('The set {1, 2} and {"other": 1}, so {"winner": "TIE"}.', "tie"),
        ('{"notes": {"winner": "Image A"}, "winner": "Image B"}', "second"),
        ('{"Winner": "Image A"}', None),
    ],
)
def test_other_replies(reply, winner):
    assert find_winner(reply) == winner


def test_long_replies_end_soon():
    assert find_winner("{" * (LONGEST + 1) + '"winner"') is None
    assert find_winner("{" * (LONGEST - 9) + '"winner"') is None
    assert find_winner('{"a":' * (LONGEST // 5 - 9) + '"winner"') is None


def test_what_a_server_is_told_to_answer_counts():
    words = SCHEMA["properties"]["winner"]["enum"]
    winners = [find_winner(json.dumps({"winner": word})) for word in words]
    assert winners == ["first", "second", "tie"]
