"""The words in which language models are asked, and the forms in which they have to answer.

The words are in assets/curation/prompts.
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import step1x_jax

_FOLDER = epath.Path(step1x_jax.__file__).parent / "assets" / "curation" / "prompts"
TEXT: Mapping[str, Any] = {"type": "string"}  # the JSON schema of one


@functools.cache
def read_prompt(name: str) -> str:
    """The words of a prompt, with {places}."""
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()


def digest_prompts(names: Sequence[str]) -> str:
    """Changes with the words of any of these prompts."""
    return hashlib.sha256("\0".join(map(read_prompt, names)).encode()).hexdigest()


def fill_prompt(name: str, values: Mapping[str, str]) -> str:
    """A prompt with values in its places, and nothing else replaced: not in values, either."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], read_prompt(name))


def object_schema(**fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object that has exactly these fields, in their order."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
