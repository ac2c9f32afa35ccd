"""A study's key: which method made which picture, and who was dealt what.

It is needed to read the answers, and must stay with whoever runs the study.
"""

import dataclasses
from typing import Literal

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.json_files import as_json, build, read_json, write_json

LEVELS = ("worst", "poor", "fair", "good", "excellent")  # rated 1 to 5


@dataclasses.dataclass(frozen=True)
class KeySample:
    """The sample and methods that a name in a study hides.

    Attributes:
      task: of the benchmark.
      language: of the instruction, "" if the benchmark has none.
      key: of the sample in its task and language.
      intersection: the data set's flag; None: it has none.
      pictures: the name of each rated picture -> the method that made it.
    """

    task: str
    language: str
    key: str
    intersection: bool | None
    pictures: dict[str, str]

    @property
    def id(self) -> SampleId:
        """The id of the sample."""
        return SampleId(self.task, self.language, self.key)


@dataclasses.dataclass(frozen=True)
class StudyKey:
    """Everything that the folder of a study hides.

    Attributes:
      format: of this file.
      study: the study's name, which pages and answers carry.
      secret: seed of all names and orders, in hexadecimal digits.
      benchmark: of the samples.
      source: column of the source pictures.
      methods: in the order in which tables list them.
      samples: by their names on the pages.
      participants: by name, the names of their samples as they were shown.
      left_out: samples that are not in the study because a method's picture is missing or
        unreadable, by method.
    """

    format: Literal[1]
    study: str
    secret: str
    benchmark: str
    source: str
    methods: list[str]
    samples: dict[str, KeySample]
    participants: dict[str, list[str]]
    left_out: dict[str, int]


def read_key(path: epath.PathLike) -> StudyKey:
    """Read a key.

    Raises:
      UserError: it is not there, or is none.
    """
    key: StudyKey = build(StudyKey, read_json(path), str(path))
    dealt = {name for names in key.participants.values() for name in names}
    made = {method for sample in key.samples.values() for method in sample.pictures.values()}
    if not dealt <= key.samples.keys() or not made <= set(key.methods):
        raise UserError(
            f"{path} names samples or methods that it does not have; give the key as it was made."
        )
    return key


def write_key(path: epath.PathLike, key: StudyKey) -> None:
    """Write a key, completely or not at all.

    Raises:
      UserError: it cannot be written.
    """
    write_json(path, as_json(key))
