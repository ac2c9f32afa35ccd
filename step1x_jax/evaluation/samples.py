"""Samples of a benchmark: one edit of one picture, identified by task, language and key."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple


class SampleId(NamedTuple):
    """Identifies a sample within its benchmark.

    Keys are unique within a task and a language only: GEdit-Bench uses each key twice, once for
    each language.
    """

    task: str
    language: str  # "" in benchmarks that have no languages
    key: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """One row of a benchmark. Its pictures stay undecoded, and unread, until they are needed."""

    id: SampleId
    instruction: str
    pictures: Mapping[str, Callable[[], bytes]]  # column -> reads the encoded picture
    intersection: bool | None = None  # the data set's flag; None: it has none
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)  # other text columns
