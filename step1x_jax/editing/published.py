"""Whether pictures and prompts are read as published: recorded cases, computed again.

assets/published.json has them: sizes of pictures, times and prompts were recorded from the
published code (tests/vectors/, tests/data/prompts.json); tokens of pictures and counts of tensors
follow from its rules and sizes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

import step1x_jax
from step1x_jax.conditioning.images import MULTIPLE, image_size
from step1x_jax.conditioning.prompt import Prompt
from step1x_jax.conditioning.tokenizer import Tokenize
from step1x_jax.errors import UserError
from step1x_jax.json_files import build, read_json
from step1x_jax.sampling.schedule import timesteps

FILE = epath.Path(step1x_jax.__file__).parent / "assets" / "published.json"
OK, DIFFERS, NOT_COMPARED, NOTED = "ok", "differs", "not compared", "noted"
ROUNDING = 1e-6  # of times near 1 in float32: about 16 of its steps


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
      name: of the check.
      result: OK, DIFFERS, NOT_COMPARED, or NOTED (a fact with which nothing is compared).
      what: was found, and where it differs, what was expected; or why it was not compared.
    """

    name: str
    result: str
    what: str


@dataclasses.dataclass(frozen=True)
class Count:
    """How many tensors, and numbers in all of them."""

    tensors: int
    parameters: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The times of a run of so many steps, for a picture of so many tokens."""

    steps: int
    tokens: int
    times: list[float]


@dataclasses.dataclass(frozen=True)
class PromptTokens:
    """Token ids with Qwen2.5's vocabulary, of which `vocabulary` are no special tokens."""

    vocabulary: int
    dropped: int
    picture: int
    before_picture: list[int]
    after_picture: dict[str, list[int]]


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """The content of a file."""

    name: str
    bytes: int
    sha256: str
    of: str


@dataclasses.dataclass(frozen=True)
class PublishedValues:
    """The published values to compare with.

    Attributes:
      models: counts of the released sizes, of each version, "autoencoder" and "language model".
      picture_sizes: (width, height, size level, width and height at which it is edited).
      edit_tokens: (width, height, tokens in the transformer).
      picture_tokens: (width, height, tokens in the language model).
      schedule: of the released settings.
      prompt: of a few instructions.
      files: whose content is known.
    """

    models: dict[str, Count]
    picture_sizes: list[tuple[int, int, int, int, int]]
    edit_tokens: list[tuple[int, int, int]]
    picture_tokens: list[tuple[int, int, int]]
    schedule: Schedule
    prompt: PromptTokens
    files: list[KnownFile]


def read_published() -> PublishedValues:
    """The recorded cases."""
    return build(PublishedValues, read_json(FILE), str(FILE))


def compared(name: str, cases: Sequence[tuple[str, Any, Any]]) -> Finding:
    """One finding of several cases.

    Args:
      name: of the check.
      cases: of each what it is, what was found and what was expected.
    """
    wrong = [case for case in cases if case[1] != case[2]]
    if not wrong:
        return Finding(name, OK, f"{len(cases)} of {len(cases)} as published")
    what, found, expected = wrong[0]
    return Finding(
        name, DIFFERS, f"{len(wrong)} of {len(cases)}; {what}: {found}, expected {expected}"
    )


def check_rules(published: PublishedValues) -> list[Finding]:
    """The rules that need no model: at which sizes pictures are edited, tokens, and times."""
    sizes = [
        (f"{w}x{h} at size {level}", _size(w, h, level), f"{at_w}x{at_h}")
        for w, h, level, at_w, at_h in published.picture_sizes
    ]
    tokens = [
        (f"{w}x{h}", (w // MULTIPLE) * (h // MULTIPLE), expected)
        for w, h, expected in published.edit_tokens
    ]
    one = published.schedule
    times = timesteps(one.steps, one.tokens)
    expected = np.asarray(one.times, np.float32)
    name = f"times of {one.steps} steps at 1024 px"
    if times.shape != expected.shape:
        times_found = Finding(name, DIFFERS, f"{len(times)} times, expected {len(expected)}")
    else:
        i = int(np.abs(times - expected).argmax())
        cases = [(f"time {i}", float(times[i]), float(expected[i]))]
        times_found = (
            Finding(name, OK, f"as published, to {ROUNDING:g}")
            if np.abs(times - expected).max() <= ROUNDING
            else compared(name, cases)
        )
    return [
        compared("sizes of pictures", sizes),
        compared("tokens of pictures in the transformer", tokens),
        times_found,
    ]


def _size(width: int, height: int, level: int) -> str:
    try:
        w, h = image_size(width, height, level)
    except UserError as e:
        return str(e)
    return f"{w}x{h}"


def check_prompts(published: PublishedValues, tokenize: Tokenize, vocabulary: int) -> Finding:
    """The token ids of whole prompts, as the releases read them.

    Args:
      published: the recorded ones.
      tokenize: of the language model's folder.
      vocabulary: how many ids its config.json names.
    """
    name, one = "ids of prompts", published.prompt
    if vocabulary < one.vocabulary:
        return Finding(
            name,
            NOT_COMPARED,
            f"another vocabulary, of {vocabulary} ids; Qwen2.5's has {one.vocabulary} and more",
        )
    prompt = Prompt(tokenize)
    tokens = 2  # of a picture; any number shows their positions
    cases: list[tuple[str, Any, Any]] = [
        ("positions thrown away", prompt.dropped, one.dropped),
        ("the id of a picture", prompt.image_id, one.picture),
    ]
    for instruction, after in one.after_picture.items():
        expected = [*one.before_picture, *[one.picture] * tokens, *after]
        found = prompt.ids(instruction, tokens)
        at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), -1)
        if found == expected:
            cases.append((repr(instruction), found, expected))
        elif at < 0:
            cases.append((repr(instruction), f"{len(found)} ids", len(expected)))
        else:
            cases.append((f"{instruction!r}, id {at}", found[at], expected[at]))
    return compared(name, cases)
