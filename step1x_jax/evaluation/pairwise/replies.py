"""The verdict in a judge's reply about two pictures.

A reply counts if the JSON objects in it name one winner, {"winner": "Image A"}, "Image B" or "Tie";
what else is in them does not matter. What a model writes between <think> and </think> is no reply
yet. Two winners are none, and so is any other word: "none" and "both" do not say that neither is
better.
"""

import json
from collections.abc import Iterator
from typing import Any

from step1x_jax.asking.replies import strip_reasoning
from step1x_jax.evaluation.pairwise.verdicts import Winner

WINNER = "winner"
LONGEST = 20_000  # characters of a reply after its reasoning
NAMES: dict[str, Winner] = {
    "imagea": "first",
    "a": "first",
    "imageb": "second",
    "b": "second",
    "tie": "tie",
    "equal": "tie",
}
# For judges whose servers hold them to a form.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {WINNER: {"type": "string", "enum": ["Image A", "Image B", "Tie"]}},
    "required": [WINNER],
    "additionalProperties": False,
}


def find_winner(reply: str) -> Winner | None:
    """The winner that a reply names, in the order of the pictures in the question.

    Returns:
      None: it names none, or several.
    """
    text = strip_reasoning(reply)
    if len(text) > LONGEST:
        return None
    named = [name_winner(value) for value in _values(text)]
    return named[0] if len(set(named)) == 1 else None


def name_winner(value: Any) -> Winner | None:
    """The winner that a word such as "Image A" names; None: it names none."""
    if not isinstance(value, str):
        return None
    return NAMES.get("".join(value.replace("_", " ").split()).lower())


def _values(text: str) -> Iterator[Any]:
    """Yield the winners of all objects in a text; one with the field twice has two."""
    fields: list[list[tuple[str, Any]]] = []
    decoder = json.JSONDecoder(object_pairs_hook=fields.append)  # those within objects first
    position, last = text.find("{"), text.rfind(f'"{WINNER}"')
    while 0 <= position < last:
        del fields[:]
        try:
            _, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield from (value for name, value in fields[-1] if name == WINNER)
        position = text.find("{", end)
