"""What the language model is asked for captions, and the form in which it has to answer."""

from collections.abc import Mapping, Sequence

from step1x_jax.curation.captions.rounds import MOST_CLAIMS
from step1x_jax.curation.chat.prompts import TEXT, digest_prompts, fill_prompt, object_schema

NAMES = ("system", "first_round", "next_round", "write")


def prompts_digest() -> str:
    """Changes with anything that is asked."""
    return digest_prompts(NAMES)


def round_text(category: str, claims: Sequence[str]) -> str:
    """The question of a round, given the claims of the one before; without any, of the first."""
    values = {"category": category, "claims": _numbered(claims), "most": str(MOST_CLAIMS)}
    return fill_prompt("next_round" if claims else "first_round", values)


def write_text(category: str, claims: Sequence[str], examples: Mapping[str, Sequence[str]]) -> str:
    """The question for the instruction in both languages."""
    shown = "\n".join(f"- {text}" for texts in examples.values() for text in texts)
    values = {"category": category, "claims": _numbered(claims), "examples": shown or "-"}
    return fill_prompt("write", values)


def _numbered(claims: Sequence[str]) -> str:
    return "\n".join(f"{number}. {claim}" for number, claim in enumerate(claims, 1))


ROUND_SCHEMA = object_schema(
    confirmed={"type": "array", "items": {"type": "integer"}},
    claims={"type": "array", "items": TEXT},
)
WRITE_SCHEMA = object_schema(en=TEXT, cn=TEXT)
