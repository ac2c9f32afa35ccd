"""Rows, and what a stage makes of one.

A row is a dict from columns to values. Every row has an id; the engine keeps beside it whether it
still goes on (STATUS), and if not, why and since which stage.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from step1x_jax.errors import UserError

Row = dict[str, Any]

ID, PARENT = "id", "parent_id"
STATUS, REASON, DETAIL, STAGE = "status", "reason", "detail", "stage"
OK, REJECTED, FAILED = "ok", "rejected", "failed"
LONGEST_DETAIL = 300  # characters


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row that a stage leaves out: what it holds is not good enough, and always will be.

    Attributes:
      reason: one of few words that a stage has, such as "too_small": statistics count by it.
      detail: what else there is to say, for people.
      columns: what is known of the row all the same.
    """

    reason: str
    detail: str = ""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Failed:
    """A row that a stage could not work on: something is wrong, with the stage or the machine.

    Attributes:
      reason: the kind of error; statistics count by it.
      detail: its message.
    """

    reason: str
    detail: str = ""


# What becomes of a row: its new columns, or none. A stage that makes several rows of one gives a
# list of these.
Outcome = Mapping[str, Any] | Rejected | Failed


class TransientError(Exception):
    """What may go well if it is tried again soon: a server that is busy, a disk far away."""


class StopError(UserError):
    """What ends a stage: no other row would fare better. A sentence for the user."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a stage knows besides its rows.

    Attributes:
      seed: of the whole run.
      stage: the stage's name.
      part: the key of the part that the rows are in.
      folder: where the stage may keep what it does not want to ask for twice; the same for a part
        in every run. Nothing has made it.
      calls: where it counts what it asks models for, if it wants to.
    """

    seed: int
    stage: str
    part: str
    folder: str
    calls: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def rng(self, row: Row) -> np.random.Generator:
        """Random numbers that are a row's own: the same in every run, whatever else there is."""
        digest = hashlib.sha256(f"{self.seed} {self.stage} {row[ID]}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def short(detail: object) -> str:
    """A detail as it is kept: one line, not too long, valid text."""
    line = " ".join(str(detail).encode(errors="replace").decode().split())
    return line if len(line) <= LONGEST_DETAIL else f"{line[: LONGEST_DETAIL - 3]}..."
