"""What a worker does with a part: reads its rows, works on each, writes what came out."""

import collections
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from step1x_jax.curation.engine.columns import check_values, encode
from step1x_jax.curation.engine.history import ColumnLayer
from step1x_jax.curation.engine.joining import Given, as_row, read_given
from step1x_jax.curation.engine.part_files import (
    FIXED,
    INPUT,
    PART_BYTES,
    STATE,
    Written,
    fitting,
    read_columns,
    write_parts,
)
from step1x_jax.curation.engine.rows import (
    DETAIL,
    FAILED,
    ID,
    OK,
    PARENT,
    REASON,
    REJECTED,
    STAGE,
    STATUS,
    Context,
    Failed,
    Outcome,
    Rejected,
    Row,
    StopError,
    TransientError,
    short,
)
from step1x_jax.curation.engine.source import Source
from step1x_jax.curation.engine.stage import Operator, Stage, outcomes_of
from step1x_jax.data.sources import UnreadableError
from step1x_jax.errors import UserError

ATTEMPTS = 3  # of a row, if it fails for a reason that may pass
FIRST_WAIT = 1.0  # seconds after the first of them; doubled after the next
TRANSIENT = (TransientError, UnreadableError, ConnectionError, TimeoutError)


@dataclasses.dataclass(frozen=True)
class PartJob:
    """A part to be made.

    Attributes:
      key: of the part.
      layers: files of the rows that it is made from, the latest first; of a source none.
      payload: what a source makes it from.
      before: files that were made of the same part by the same stage, of another input.
      folder: where to write.
      context: for the stage.
      limit: bytes of a file.
    """

    key: str
    layers: tuple[ColumnLayer, ...]
    payload: Any
    before: tuple[str, ...]
    folder: str
    context: Context
    limit: int = PART_BYTES


@dataclasses.dataclass(frozen=True)
class Made:
    """A part that is made, its files under temporary names.

    Attributes: as those of `Part`.
    """

    key: str
    written: Sequence[Written]
    rejected: Mapping[str, int]
    failed: Mapping[str, int]
    examples: Mapping[str, str]
    worked: int
    kept: int
    calls: int
    seconds: float


class Worker:
    """Makes parts of one stage, one after another."""

    def __init__(self, name: str, stage: Stage):
        """Load nothing yet.

        Args:
          name: of the stage.
          stage: what to do.
        """
        self._name = name
        self._stage = stage
        self._operator: Operator | None = None

    def make(self, job: PartJob) -> Made:
        """Make a part.

        Raises:
          StopError: the stage cannot go on.
        """
        begun = time.monotonic()
        kept = worked = 0
        if isinstance(self._stage, Source):
            rows = list(self._from_source(self._stage, job))
            worked = len(rows)
        else:
            given = read_given(job.layers, self._stage.reads)
            live = [one for one in given if one.state[0] == OK]
            known = _known(job.before, self._stage, self._name)
            new = [one for one in live if (one.id, one.input) not in known]
            made = self._work(new, job.context)
            worked, kept = len(live), len(live) - len(new)
            rows = []
            for one in given:
                if one.state[0] != OK:
                    rows.append(self._carried(one))
                elif (one.id, one.input) in known:
                    rows += known[one.id, one.input]
                else:
                    rows += self._rows(one, made[one.id])
        rows = [fitting(row, self._stage.writes, self._name, job.limit) for row in rows]
        written = write_parts(job.folder, job.key, rows, self._stage.writes, job.limit)
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        examples: dict[str, str] = {}
        for row in rows:
            if row[STAGE] == self._name:
                counts[row[STATUS]][row[REASON]] += 1
                if row[STATUS] == FAILED:
                    examples.setdefault(row[REASON], row[DETAIL])
        return Made(
            key=job.key,
            written=written,
            rejected=dict(sorted(counts[REJECTED].items())),
            failed=dict(sorted(counts[FAILED].items())),
            examples=examples,
            worked=worked,
            kept=kept,
            calls=job.context.calls.total(),
            seconds=round(time.monotonic() - begun, 3),
        )

    def _from_source(self, source: Source, job: PartJob) -> Iterator[Row]:
        try:
            for id, outcome in source.read(job.payload, job.context):
                yield self._row(id, "", "", self._checked(outcome))
        except UserError as e:
            raise StopError(str(e)) from e

    def _work(self, given: Sequence[Given], context: Context) -> dict[str, list[Outcome]]:
        """Outcomes of each row, by its id."""
        size = self._stage.batch or max(len(given), 1)
        made: dict[str, list[Outcome]] = {}
        for start in range(0, len(given), size):
            batch = given[start : start + size]
            outcomes = self._attempt([as_row(one, self._stage.reads) for one in batch], context)
            made |= {one.id: out for one, out in zip(batch, outcomes, strict=True)}
        return made

    def _attempt(self, rows: Sequence[Row], context: Context) -> list[list[Outcome]]:
        """Outcomes of each row; a batch that raises is tried row by row.

        Raises:
          StopError: of the stage.
        """
        if self._operator is None:
            try:
                self._operator = self._stage.open()
            except UserError as e:
                raise StopError(str(e)) from e
        failures = 0
        while True:
            try:
                made = self._operator(rows, context)
                if len(made) != len(rows):
                    raise TypeError(f"the stage made {len(made)} outcomes of {len(rows)} rows")
                return [
                    [self._checked(out) for out in outcomes_of(one, self._stage.many)]
                    for one in made
                ]
            except StopError:
                raise
            except Exception as e:
                if len(rows) > 1:
                    return [self._attempt([row], context)[0] for row in rows]
                failures += 1
                if not isinstance(e, TRANSIENT) or failures >= ATTEMPTS:
                    return [[Failed(type(e).__name__, short(e))]]
                time.sleep(FIRST_WAIT * 2 ** (failures - 1))

    def _checked(self, outcome: Outcome) -> Outcome:
        """The outcome with its values as stored; raises what `check_values` and `encode` raise."""
        if isinstance(outcome, Failed):
            return outcome
        columns = outcome.columns if isinstance(outcome, Rejected) else outcome
        kinds = self._stage.writes
        check_values(dict(columns), kinds)
        stored = {name: encode(value, kinds[name]) for name, value in columns.items()}
        if isinstance(outcome, Rejected):
            return dataclasses.replace(outcome, columns=stored)
        return stored

    def _rows(self, given: Given, outcomes: Sequence[Outcome]) -> list[Row]:
        if not self._stage.many:
            return [self._row(given.id, "", given.input, outcomes[0])]
        outcomes = outcomes or [Rejected("nothing_made")]
        return [
            self._row(f"{given.id}.{number}", given.id, given.input, outcome)
            for number, outcome in enumerate(outcomes)
        ]

    def _row(self, id: str, parent: str, input: str, outcome: Outcome) -> Row:
        """A row as stored."""
        row: Row = {ID: id, PARENT: parent, INPUT: input} | dict.fromkeys(self._stage.writes)
        if isinstance(outcome, Mapping):
            return row | dict.fromkeys(STATE, "") | {STATUS: OK} | dict(outcome)
        if isinstance(outcome, Rejected):
            row |= dict(outcome.columns)
        return row | {
            STATUS: REJECTED if isinstance(outcome, Rejected) else FAILED,
            REASON: outcome.reason,
            DETAIL: short(outcome.detail),
            STAGE: self._name,
        }

    def _carried(self, given: Given) -> Row:
        """A row that was left out before."""
        parent = given.id if self._stage.many else ""
        row: Row = {ID: given.id, PARENT: parent, INPUT: ""}
        return row | dict.fromkeys(self._stage.writes) | dict(zip(STATE, given.state, strict=True))


def _known(files: Sequence[str], stage: Stage, name: str) -> dict[tuple[str, str], list[Row]]:
    """Rows that were made before, as stored, by the id and the input of what they were made of.

    Rows that failed are none: they are tried again.
    """
    known: dict[tuple[str, str], list[Row]] = {}
    for path in files:
        values = read_columns(path, {**FIXED, **stage.writes})
        for numbers in zip(*values.values(), strict=True):
            row = dict(zip(values, numbers, strict=True))
            if row[INPUT]:
                known.setdefault((row[PARENT] if stage.many else row[ID], row[INPUT]), []).append(
                    row
                )
    return {
        key: rows
        for key, rows in known.items()
        if not any(row[STATUS] == FAILED and row[STAGE] == name for row in rows)
    }
