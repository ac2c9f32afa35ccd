"""Answers of participants, as their pages exported them: files of strangers, checked by the key."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal

from etils import epath
from msgspec import Meta

from step1x_jax.errors import UserError
from step1x_jax.evaluation.study.key import LEVELS, StudyKey
from step1x_jax.json_files import build, read_json, shown

LARGEST = 4 << 20  # bytes of an export: room for 50000 ratings


@dataclasses.dataclass(frozen=True)
class AnswersFile:
    """The file that a page lets download.

    Attributes:
      format: of this file.
      study: the study's name.
      participant: whose page it was.
      exported: when, by that computer's clock.
      ratings: by the pictures' names, 1 (worst) to 5 (excellent).
    """

    format: Literal[1]
    study: str
    participant: str
    exported: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
    ratings: dict[str, Annotated[int, Meta(ge=1, le=len(LEVELS))]]


@dataclasses.dataclass(frozen=True)
class ExportNote:
    """The outcome of reading a file.

    Attributes:
      file: its path.
      participant: of the study.
      rated: pictures.
      dealt: pictures that the participant was to rate.
      used: whether it counts: of several of a participant the one that was exported last does.
      changed: ratings in it that the one that counts has otherwise, or not at all.
    """

    file: str
    participant: str
    rated: int
    dealt: int
    used: bool
    changed: int


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of all participants.

    Attributes:
      ratings: participant -> picture -> level.
      notes: of every file, in the order in which they were given.
      absent: participants of whom there is no file.
    """

    ratings: dict[str, dict[str, int]]
    notes: list[ExportNote]
    absent: list[str]


def read_answers(paths: Sequence[epath.PathLike], key: StudyKey) -> Answers:
    """Read exports and check them against the key.

    Args:
      paths: JSON files.
      key: of the study.

    Raises:
      UserError: a file is no export of this study, rates what its participant was not dealt, or two
        that differ were exported by one participant at the same time. Names it.
    """
    dealt = {
        participant: {picture for name in names for picture in key.samples[name].pictures}
        for participant, names in key.participants.items()
    }
    exports = {str(path): _read_export(path, key, dealt) for path in paths}
    by_participant: dict[str, list[str]] = defaultdict(list)
    for path, export in exports.items():
        by_participant[export.participant].append(path)
    used = {participant: _latest(files, exports) for participant, files in by_participant.items()}
    return Answers(
        ratings={participant: exports[path].ratings for participant, path in used.items()},
        notes=[
            _note(path, export, used[export.participant], exports, len(dealt[export.participant]))
            for path, export in exports.items()
        ],
        absent=[participant for participant in key.participants if participant not in used],
    )


def _read_export(path: epath.PathLike, key: StudyKey, dealt: dict[str, set[str]]) -> AnswersFile:
    export: AnswersFile = build(AnswersFile, read_json(path, LARGEST), str(path))
    if export.study != key.study:
        raise UserError(
            f"{path} is of the study {shown(export.study)}, not of {key.study}; leave it out, or"
            " give the key of that study."
        )
    if export.participant not in dealt:
        raise UserError(
            f"{path} is of a participant {shown(export.participant)}, whom this study does not"
            " have; leave it out."
        )
    unknown = export.ratings.keys() - dealt[export.participant]
    if unknown:
        raise UserError(
            f"{path} rates {len(unknown)} pictures that {export.participant} was not dealt; leave"
            " it out: somebody has changed it."
        )
    return export


def _latest(files: list[str], exports: dict[str, AnswersFile]) -> str:
    """Return the file that a participant exported last."""
    last = max(files, key=lambda file: exports[file].exported)
    for file in files:
        one, other = exports[file], exports[last]
        if one.exported == other.exported and one.ratings != other.ratings:
            raise UserError(
                f"{file} and {last} were exported by {one.participant} at the same time and differ;"
                " leave one of them out."
            )
    return last


def _note(
    path: str, export: AnswersFile, used: str, exports: dict[str, AnswersFile], dealt: int
) -> ExportNote:
    counts = exports[used].ratings
    changed = Counter(counts.get(picture) != level for picture, level in export.ratings.items())
    return ExportNote(
        file=path,
        participant=export.participant,
        rated=len(export.ratings),
        dealt=dealt,
        used=path == used,
        changed=changed[True],
    )
