"""Numbers in a judge's reply: reading them as the published parser does, and whether they count.

The two are separate steps. `find_scores` gives what the parser of GEdit-Bench gives
(stepfun-ai/Step1X-Edit, GEdit-Bench/viescore, `mllm_output_to_dict` at its first attempt; it
guesses at its second one, we never do). `valid_numbers` says whether these are an answer.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from step1x_jax.evaluation.benchmarks import JudgeQuestion

LONGEST = 200_000  # characters of a reply that are read
_DELIMITER = "||V^=^V||"
_PAIR = re.compile(r"\[\d+, ?\d+\]")
_BARE_KEY = re.compile(r"\b(\w+):")
_END = re.compile("[,}]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_WORDS = ("true", "false", "null")


def find_scores(reply: str) -> Any:
    """The value of "score" in a reply, as the published parser has it.

    That is a list but for odd replies: what is between its two delimiters, or else from the
    first brace to the last one, is read as JSON, if need be after quotes were put where they lack.
    Without braces a pair such as [4, 9] counts, or a whole number from 0 to 10 and nothing else.

    Returns:
      None: it finds none.
    """
    if len(reply) > LONGEST:
        return None
    if reply.count(_DELIMITER) == 2:
        text = reply.split(_DELIMITER)[1]
    elif "{" in reply and "}" in reply:
        text = reply[reply.index("{") : reply.rindex("}") + 1]
    else:
        return _without_braces(reply)
    text = text.strip().replace("\n", "")
    try:
        values = json.loads(text)
        score = values["score"]
        return score if isinstance(score, list) else [score]
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    try:
        values = json.loads(_with_quotes(text))
    except (ValueError, RecursionError):
        return None
    return values.get("score") if isinstance(values, dict) else None


def _without_braces(reply: str) -> list[int] | None:
    begin, end = reply.find("["), reply.rfind("]") + 1
    try:
        if begin >= 0 and _PAIR.fullmatch(reply[begin:end]):
            return json.loads(reply[begin:end])
        number = int(reply)
    except ValueError:
        return None
    return [number] if 0 <= number <= 10 else None


def _with_quotes(text: str) -> str:
    """JSON of what looks like it: bare keys and words get quotes, numbers become lists.

    A field is a key from a quote to the next quote with a colon, and a value up to a comma or
    brace. Each character is looked at a bounded number of times, whatever the text is.
    """
    text = _BARE_KEY.sub(r'"\1":', text)
    parts: list[str] = []
    begin = 0
    while True:
        key = text.find('"', begin)
        colon = text.find('":', key + 1) + 1 if key >= 0 else 0
        end = _END.search(text, colon + 1) if colon else None
        if end is None:
            return "".join([*parts, text[begin:]])
        value = _with_brackets_or_quotes(text[colon + 1 : end.start()].strip())
        parts += [text[begin:colon], ": ", value, end[0]]
        begin = end.end()


def _with_brackets_or_quotes(value: str) -> str:
    if _NUMBER.fullmatch(value):
        return f"[{value}]"
    return value if value.lower() in _WORDS else f'"{value}"'


def valid_numbers(
    scores: Any, question: JudgeQuestion, *, accept_single: bool = False
) -> tuple[float, ...] | None:
    """The numbers of an answer, if they are one.

    Args:
      scores: what `find_scores` found.
      question: says how many numbers it takes, their bounds, and whether they must be whole.
      accept_single: whether one number counts for all, as in the published harness.

    Returns:
      So many finite numbers within the bounds; None: these are none.
    """
    if not isinstance(scores, Sequence) or isinstance(scores, str):
        return None
    if accept_single and len(scores) == 1:
        scores = [*scores] * question.numbers
    if len(scores) != question.numbers or not all(_is_valid(x, question) for x in scores):
        return None
    return tuple(float(x) for x in scores)


def _is_valid(number: Any, question: JudgeQuestion) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    if not question.lowest <= number <= question.highest:  # nor is NaN
        return False
    return not question.whole or math.floor(number) == number


def answer_schema(question: JudgeQuestion) -> dict[str, Any]:
    """The JSON schema of an answer, for judges whose server holds them to one."""
    number: dict[str, Any] = {"type": "integer" if question.whole else "number"}
    number |= {"minimum": question.lowest, "maximum": question.highest}
    scores = {
        "type": "array",
        "items": number,
        "minItems": question.numbers,
        "maxItems": question.numbers,
    }
    return {
        "type": "object",
        "properties": {"score": scores, "reasoning": {"type": "string"}},
        "required": ["score", "reasoning"],
        "additionalProperties": False,
    }
