import pytest

from step1x_jax.asking.replies import strip_reasoning


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
