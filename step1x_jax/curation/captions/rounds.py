"""Redundancy: what several rounds of annotation hold, and what of it is kept.

A round is given the annotation of the round before, and says which of its claims the pictures
confirm and what is missing. What it does not confirm is not passed on. A claim is kept if so many
rounds hold it, that is, state or confirm it.
"""

import dataclasses
from collections.abc import Sequence

MOST_CLAIMS = 12  # of a reply
LONGEST_CLAIM = 300  # characters


@dataclasses.dataclass(frozen=True)
class RoundReply:
    """A reply of a round.

    Attributes:
      confirmed: numbers, from 1, of the claims of the round before that the pictures show.
      claims: what it states besides.
    """

    confirmed: tuple[int, ...]
    claims: tuple[str, ...]

    def problem(self, given: int) -> str | None:
        """Why it is none, where so many claims were given; or None."""
        if not all(1 <= number <= given for number in self.confirmed):
            return "it confirms what it was not given"
        if len(self.claims) > MOST_CLAIMS:
            return "it has too many claims"
        if not all(0 < len(claim.strip()) <= LONGEST_CLAIM for claim in self.claims):
            return "a claim is empty or too long"
        return None


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something that was said of the edit, and how many rounds hold it."""

    text: str
    rounds: int


class Annotation:
    """What the rounds have said of one edit so far."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}  # claim -> rounds that hold it
        self.latest: tuple[str, ...] = ()  # the claims of the latest round, which the next is given

    def add(self, reply: RoundReply) -> None:
        """Take in a round, whose reply has no problem."""
        confirmed = [self.latest[number - 1] for number in sorted(set(reply.confirmed))]
        stated = [" ".join(claim.split()) for claim in reply.claims]
        self.latest = tuple(dict.fromkeys([*confirmed, *stated]))
        for claim in self.latest:
            self._counts[claim] = self._counts.get(claim, 0) + 1

    def kept(self, needed: int) -> Sequence[Claim]:
        """Claims that at least so many rounds hold, in the order in which they were stated."""
        return [Claim(text, n) for text, n in self._counts.items() if n >= needed]
