"""Verdicts on pairs of methods' pictures: one line of JSON for each question to a judge.

A pair is usually shown in both orders, for judges prefer a place. Verdicts that differ then make a
tie: nothing but the place decided. A question without a verdict makes none: it is left out.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import reason, replacing
from step1x_jax.json_files import build, parse_json

Winner = Literal["first", "second", "tie"]
# unparsable: no reply names one winner. refused: by a content filter. failed: no reply.
Failure = Literal["", "unparsable", "refused", "failed"]
LONGEST_LINE = 1 << 20  # bytes: names and a key
SWAPPED: dict[Winner | None, Winner | None] = {
    "first": "second",
    "second": "first",
    "tie": "tie",
    None: None,
}


@dataclasses.dataclass(frozen=True)
class PairVerdict:
    """The verdict on two pictures, in the order in which the judge saw them.

    Attributes:
      dimension: the question's name.
      task: of the sample.
      key: of the sample.
      first: the method whose picture stood first.
      second: the other one.
      winner: None if there is no verdict: no reply, or none that can be read.
      language: of the sample; "" in benchmarks without languages.
      pictures: fingerprints of both files; None: not known.
      failure: why there is no winner; "": there is one, or it is not known.
    """

    dimension: str
    task: str
    key: str
    first: str
    second: str
    winner: Winner | None
    language: str = ""
    pictures: tuple[str, str] | None = None
    failure: Failure = ""

    @property
    def identical(self) -> bool:
        """Whether both pictures are the same file: nobody is asked then, and it is a tie."""
        return self.pictures is not None and self.pictures[0] == self.pictures[1]


class Match(NamedTuple):
    """A pair of pictures in one dimension; its methods are sorted by name."""

    dimension: str
    task: str
    language: str
    key: str
    one: str
    other: str


def match_of(verdict: PairVerdict) -> Match:
    """The match in which a verdict was given, whatever the order."""
    one, other = sorted((verdict.first, verdict.second))
    return Match(verdict.dimension, verdict.task, verdict.language, verdict.key, one, other)


def by_match(verdicts: Iterable[PairVerdict]) -> dict[Match, list[PairVerdict]]:
    """The verdicts of each match, those without a winner included, in the order given."""
    matches: dict[Match, list[PairVerdict]] = {}
    for verdict in verdicts:
        matches.setdefault(match_of(verdict), []).append(verdict)
    return matches


def combine_orders(verdicts: Iterable[PairVerdict]) -> list[PairVerdict]:
    """One verdict for each match.

    Returns:
      Of each match the verdict that all its orders gave, or a tie if they differ, with the methods
      sorted by name. An order without a verdict does not count: a single verdict is kept, and the
      winner is None only if there is no verdict at all.
    """
    combined = []
    for match, orders in by_match(verdicts).items():
        winners = {
            given.winner if given.first == match.one else SWAPPED[given.winner]
            for given in orders
            if given.winner is not None
        }
        winner: Winner | None = "tie" if len(winners) > 1 else next(iter(winners), None)
        dimension, task, language, key, one, other = match
        combined.append(PairVerdict(dimension, task, key, one, other, winner, language))
    return combined


def check_pictures(verdicts: Iterable[PairVerdict]) -> None:
    """Raise UserError if a method's picture of a sample was another one in other verdicts."""
    seen: dict[tuple[str, str, str, str], str] = {}
    for one in verdicts:
        for method, picture in zip((one.first, one.second), one.pictures or (), strict=False):
            before = seen.setdefault((method, one.task, one.language, one.key), picture)
            if before != picture:
                place = "/".join(filter(None, (one.task, one.language, one.key)))
                raise UserError(
                    f"the picture of {method} for {place} changed between verdicts; judge"
                    f" {method} against all the others again: replies about the same pictures are"
                    " kept."
                )


def read_verdicts(path: epath.PathLike) -> list[PairVerdict]:
    """Verdicts from a file that `write_verdicts` wrote, or one like it.

    Raises:
      UserError: it cannot be read, a line is no verdict, a method is compared with itself, or a
        pair is there twice in the same order; names the line.
    """
    verdicts: list[PairVerdict] = []
    lines: dict[tuple[Match, str], int] = {}
    for number, line in _lines(epath.Path(path)):
        source = f"{path}, line {number}"
        verdict: PairVerdict = build(PairVerdict, parse_json(line, source), source)
        if verdict.first == verdict.second:
            raise UserError(f"{source} compares {verdict.first} with itself; remove the line.")
        before = lines.setdefault((match_of(verdict), verdict.first), number)
        if before != number:
            raise UserError(f"{source} judges what line {before} judges; remove one of them.")
        verdicts.append(verdict)
    if not verdicts:
        raise UserError(f"{path} has no verdicts; ask a judge first: judge --against.")
    return verdicts


def _lines(path: epath.Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise UserError(f"{path}, line {number} is longer than a verdict; replace it.")
                if line.strip():
                    yield number, line
    except FileNotFoundError as e:
        raise UserError(f"{path} does not exist; ask a judge first: judge --against.") from e
    except OSError as e:
        raise UserError(f"{path} cannot be read ({reason(e)}); check its rights and disk.") from e


def write_verdicts(path: epath.PathLike, verdicts: Sequence[PairVerdict]) -> None:
    """Write verdicts, a line each, completely or not at all.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    with replacing(path) as temporary, temporary.open("w") as stream:
        for verdict in verdicts:
            stream.write(json.dumps(dataclasses.asdict(verdict), ensure_ascii=False) + "\n")
