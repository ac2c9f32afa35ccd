"""What a model's reply says, without what it says before."""

from typing import TypeVar

from step1x_jax.errors import UserError
from step1x_jax.json_files import build, parse_json

T = TypeVar("T")


def strip_reasoning(text: str) -> str:
    """What follows a model's reasoning: all behind the last </think>.

    Models whose template opens the reasoning in the question close it only. Reasoning that was cut
    off has nothing behind it.
    """
    after = text.rpartition("</think>")[2]  # all of it if there is none
    return after.partition("<think>")[0].strip()


def parse_reply(kind: type[T], text: str) -> T | None:
    """The JSON object that a reply is, as a dataclass.

    Args:
      kind: a dataclass; its fields are those of the object.
      text: the reply; reasoning before the object, and backticks around it, are taken away.

    Returns:
      None: the reply is not in that form: no JSON, another field, a missing one, another type.
    """
    try:
        return build(kind, parse_json(_unfenced(strip_reasoning(text)), "it"), "it")
    except UserError:
        return None


def _unfenced(text: str) -> str:
    """Without the three backticks that models put around JSON."""
    if text.startswith("```") and text.endswith("```"):
        return text.partition("\n")[2].removesuffix("```")
    return text
