"""What the language model is asked, and the form in which it has to answer.

The words are in assets/curation/prompts.
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import step1x_jax
from step1x_jax.curation.captions.rounds import MOST_CLAIMS

NAMES = ("system", "first_round", "next_round", "write")
_FOLDER = epath.Path(step1x_jax.__file__).parent / "assets" / "curation" / "prompts"


@functools.cache
def read_prompt(name: str) -> str:
    """The words of a prompt, with {places}."""
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()


def prompts_digest() -> str:
    """Changes with anything that is asked."""
    return hashlib.sha256("\0".join(map(read_prompt, NAMES)).encode()).hexdigest()


def round_text(category: str, claims: Sequence[str]) -> str:
    """The question of a round, given the claims of the one before; without any, of the first."""
    values = {"category": category, "claims": _numbered(claims), "most": str(MOST_CLAIMS)}
    return _fill(read_prompt("next_round" if claims else "first_round"), values)


def write_text(category: str, claims: Sequence[str], examples: Mapping[str, Sequence[str]]) -> str:
    """The question for the instruction in both languages."""
    shown = "\n".join(f"- {text}" for texts in examples.values() for text in texts)
    values = {"category": category, "claims": _numbered(claims), "examples": shown or "-"}
    return _fill(read_prompt("write"), values)


def _numbered(claims: Sequence[str]) -> str:
    return "\n".join(f"{number}. {claim}" for number, claim in enumerate(claims, 1))


def _fill(prompt: str, values: Mapping[str, str]) -> str:
    """The prompt with values in its places, and nothing else replaced: not in values, either."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], prompt)


def _object_with(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


ROUND_SCHEMA = _object_with(
    confirmed={"type": "array", "items": {"type": "integer"}},
    claims={"type": "array", "items": {"type": "string"}},
)
WRITE_SCHEMA = _object_with(en={"type": "string"}, cn={"type": "string"})
