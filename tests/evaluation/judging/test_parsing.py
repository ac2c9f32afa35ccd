import json
import math
import pathlib

import pytest

from step1x_jax.evaluation.benchmarks import GEDIT, IMGEDIT
from step1x_jax.evaluation.judging.parsing import (
    LONGEST,
    answer_schema,
    find_scores,
    valid_numbers,
)

GOLDEN = pathlib.Path(__file__).parents[2] / "vectors" / "judge_replies.json"
SEMANTICS = GEDIT.questions[0]
EDIT = IMGEDIT.questions[0]

# What the published parser makes of further replies, run on 400,000 mutations of the golden ones;
# these are the kinds on which rules that look alike differ.
PUBLISHED = [
    ('{"score": 6}', [6]),
    ('{"score": "7"}', ["7"]),
    ('{"score": null}', [None]),
    ('{"score": [11, -3]}', [11, -3]),
    ('{"reasoning": "no score"}', None),
    ('{"score": [5, 6],}', None),
    ("{'score': [3, 4]}", None),
    ("{score: [7, 8], reasoning: fine}", None),
    ("{score: 7, ok: True}", None),
    ("{score: 7, ok: true}", [7]),
    ("{score: good}", "good"),
    ("}{", None),
    ("[4,9]", [4, 9]),
    ("[4,  9]", None),
    ("[4, 9, 3]", None),
    ("[4.5, 9]", None),
    ("[04, 9]", None),
    ("scores: [4, 9].", [4, 9]),
    (" 7\n", [7]),
    ("10", [10]),
    ("11", None),
    ("-1", None),
    ("7.5", None),
    ("||V^=^V||[3, 4]||V^=^V||", None),
    ('||V^=^V||{"score": [3, 4]}||V^=^V|| and ||V^=^V||', [3, 4]),
    ('{"a": {"score": [1, 2]}}', None),
    ('{"score": [1, 2]} and {"score": [3, 4]}', None),
]


def test_golden_replies():
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == 12
    for row in golden:
        published = row["published"]
        expected = published["score"] if isinstance(published, dict) else None
        assert find_scores(row["reply"]) == expected, row


@pytest.mark.parametrize(("reply", "expected"), PUBLISHED)
def test_published_parser(reply, expected):
    assert find_scores(reply) == expected


def test_hostile_replies_are_none_and_quick():
    assert find_scores("{" * 5000 + "}" * 5000) is None
    many = LONGEST // 4 - 1
    for text in ("a", '"', '"":', "a: ", "a:,", '":}', "[[", "{{", "\\"):
        assert find_scores("{" + text * many + "}") is None
        assert find_scores("||V^=^V||" + text * (many - 10) + "||V^=^V||") is None
    assert find_scores("[" + "9" * 5000 + ", 1]") is None
    assert find_scores('{"score": [1, 2]}' + " " * LONGEST) is None


@pytest.mark.parametrize(
    "scores",
    [
        None,
        False,
        7,
        "77",
        [],
        [7],
        [7, 8, 9],
        [11, 5],
        [-0.5, 5],
        [math.nan, 5],
        [math.inf, 5],
        [None, 5],
        ["7", 5],
        [True, 5],
        [[7], [5]],
        {"a": 7, "b": 5},
    ],
)
def test_numbers_that_do_not_count(scores):
    assert valid_numbers(scores, SEMANTICS) is None


def test_numbers_that_count():
    assert valid_numbers([8.5, 0], SEMANTICS) == (8.5, 0.0)
    assert valid_numbers([10, 7], SEMANTICS) == (10.0, 7.0)


def test_one_number_counts_for_all_if_accepted():
    assert valid_numbers([6], SEMANTICS, accept_single=True) == (6.0, 6.0)
    assert valid_numbers([11], SEMANTICS, accept_single=True) is None
    assert valid_numbers([6, 7, 8], SEMANTICS, accept_single=True) is None


def test_whole_numbers_from_one_to_five():
    assert valid_numbers([1, 5, 3.0], EDIT) == (1.0, 5.0, 3.0)
    assert valid_numbers([1, 5, 3.5], EDIT) is None
    assert valid_numbers([0, 5, 3], EDIT) is None


def test_schema_says_what_counts():
    for question in (SEMANTICS, EDIT):
        score = answer_schema(question)["properties"]["score"]
        number = score["items"]
        lowest = [number["minimum"]] * score["minItems"]
        highest = [number["maximum"]] * score["maxItems"]
        for scores in (lowest, highest):
            assert valid_numbers(scores, question) is not None
        assert valid_numbers([number["maximum"] + 1, *highest[1:]], question) is None
        assert (number["type"] == "integer") == question.whole
