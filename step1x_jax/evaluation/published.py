"""Scores that others have published, from assets/evaluation/published.json.

They are kept apart from measured ones: judges drift, and protocols differ. A row that its publisher
has copied from another model's by mistake is not among them (FireRed's of "Step1X-Edit-v1.2", whose
six numbers are those of Qwen-Image-Edit-2509).
"""

import dataclasses
import functools
from collections.abc import Mapping

from etils import epath

import step1x_jax
from step1x_jax.json_files import build, read_json

FILE = epath.Path(step1x_jax.__file__).parent / "assets" / "evaluation" / "published.json"


@dataclasses.dataclass(frozen=True)
class PublishedScores:
    """The published scores of a method.

    Attributes:
      benchmark: as --benchmark has it; or another one's name.
      method: its name.
      language: of the instructions; "": not stated, or of both.
      subset: "full" or "intersection".
      judge: its name; people, for what is a vote.
      protocol: how pictures were shown to it; or "not stated".
      date: year and month, as far as it is known.
      source: where it is published.
      scores: averages by measure.
      tasks: means of O by task, where they are published.
    """

    benchmark: str
    method: str
    language: str
    subset: str
    judge: str
    protocol: str
    date: str
    source: str
    scores: Mapping[str, float]
    tasks: Mapping[str, float] = dataclasses.field(default_factory=dict)


@functools.cache
def read_published() -> tuple[PublishedScores, ...]:
    """Read all rows, in the file's order.

    Raises:
      UserError: the file is damaged.
    """
    return build(tuple[PublishedScores, ...], read_json(FILE).get("rows"), str(FILE), "rows")
