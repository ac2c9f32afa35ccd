"""Judgements of a method's pictures, one line of JSON for each sample."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from step1x_jax.evaluation.samples import SampleId

# ok: every question has valid numbers.       missing, unreadable: the method's picture.
# unparsable: no valid numbers in any reply.  refused: by a content filter.
# failed: no reply, as after timeouts.
Status = Literal["ok", "missing", "unreadable", "unparsable", "refused", "failed"]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The judgement of one sample; `repeat` counts those of the same picture (--repeats).

    `reason` says in a few words why a status is not "ok".
    """

    id: SampleId
    status: Status
    scores: Mapping[str, tuple[float, ...]]  # question -> its numbers; of "ok" all questions
    intersection: bool | None = None
    repeat: int = 0
    reason: str = ""
