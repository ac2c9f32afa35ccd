import dataclasses

import pytest

from step1x_jax.asking.replies import parse_reply, strip_reasoning


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("plain", "plain"),
        ("<think>[1, 2]</think>\n[3, 4]", "[3, 4]"),
        ("opened by the template: [1, 2]</think>[3, 4]", "[3, 4]"),
        ("<think>cut off: [1, 2]", ""),
        ("<think>a</think>b<think>c</think>[3, 4]", "[3, 4]"),
    ],
)
def test_reasoning_is_taken_away(text, rest):
    assert strip_reasoning(text) == rest


@dataclasses.dataclass(frozen=True)
class Toy:
    number: int
    words: tuple[str, ...]


@pytest.mark.parametrize(
    "text",
    [
        '{"number": 3, "words": ["a"]}',
        ' {"words": ["a"], "number": 3}\n',
        '```json\n{"number": 3, "words": ["a"]}\n```',
        '<think>{"number": 4, "words": []}</think>{"number": 3, "words": ["a"]}',
    ],
)
def test_replies_in_their_form(text):
    assert parse_reply(Toy, text) == Toy(3, ("a",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "three",
        "[3]",
        '{"number": 3}',
        '{"number": 3, "words": ["a"], "more": 1}',
        '{"number": "3", "words": ["a"]}',
        '{"number": true, "words": ["a"]}',
        '{"number": 3, "words": "a"}',
        '{"number": 3, "words": ["a"]} as asked',
        '{"number": NaN, "words": ["a"]}',
        '{"number": 3, "words": ["\\ud800"]}',
        "[" * 100_000,
    ],
)
def test_replies_in_no_form(text):
    assert parse_reply(Toy, text) is None
