"""What a stage is: a dataclass whose fields are its settings, and which declares its columns.

    @dataclasses.dataclass
    class Size(Stage):
        smallest: int = 64  # pixels of the shorter side

        reads = {"width": int, "height": int}

        def open(self):
            return each(self._look)

        def _look(self, row, context):
            if min(row["width"], row["height"]) < self.smallest:
                return Rejected("too_small")
            return {}

In a config it stands under a name: {"size": Size(smallest=128)}.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from step1x_jax.curation.engine.columns import TYPES, Columns, digest_of, encode
from step1x_jax.curation.engine.rows import (
    DETAIL,
    ID,
    PARENT,
    REASON,
    STAGE,
    STATUS,
    Context,
    Failed,
    Outcome,
    Rejected,
    Row,
)
from step1x_jax.errors import UserError

# Works on rows: one outcome for each, in order; a list of outcomes if the stage makes many of one.
Operator = Callable[[Sequence[Row], Context], Sequence[Any]]
OWN = (ID, PARENT, STATUS, REASON, DETAIL, STAGE)  # columns that the engine keeps


@dataclasses.dataclass
class Stage:
    """A step of the pipeline that works on each row by itself.

    What it makes of a row depends on the row's columns in `reads`, its settings and the seed, and
    on nothing else: only then can a row that did not change keep what was made of it.

    Attributes:
      version: to be raised when the stage's code makes something else of the same row.
      reads: the columns that it needs.
      writes: the columns that it adds, or replaces.
      optional: of `reads`, those that need not be there: their values are then None.
      many: whether it makes any number of rows of one.
      batch: how many rows it is given at once; 0: all of a part.
      aside: fields that say how it works and not what comes out, such as addresses and time limits:
        another value of theirs makes nothing anew.
      resources: what one worker needs, in Ray's words: CPU, GPU, TPU.
    """

    version: ClassVar[int] = 1
    reads: ClassVar[Columns] = {}
    writes: ClassVar[Columns] = {}
    optional: ClassVar[Sequence[str]] = ()
    many: ClassVar[bool] = False
    batch: ClassVar[int] = 1
    aside: ClassVar[Sequence[str]] = ()
    resources: ClassVar[Mapping[str, float]] = {"CPU": 1}

    def validate(self) -> None:
        """Raise UserError, naming the field, for settings that cannot be."""

    def identity(self) -> Mapping[str, Any]:
        """What comes out depends on, besides fields and version: digests of prompts, models, files.

        Raises:
          UserError: something of it is not there.
        """
        return {}

    def open(self) -> Operator:
        """Load what the stage needs; called once in each worker, before the first rows.

        Raises:
          UserError: a package or a model is missing.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes whenever the stage may make something else of a row."""
        values = dataclasses.asdict(self)
        for name in self.aside:
            del values[name]
        kind = type(self)
        facts = {
            "stage": f"{kind.__module__}.{kind.__qualname__}",
            "version": self.version,
            "settings": values,
            "identity": dict(self.identity()),
            "reads": [f"{name} {type_name(kind)}" for name, kind in self.reads.items()],
            "writes": [f"{name} {type_name(kind)}" for name, kind in self.writes.items()],
            "many": self.many,
        }
        return digest_of(encode(facts, dict))


@dataclasses.dataclass
class WholeStage(Stage):
    """A step that decides about rows by looking at all of them, as a filter of duplicates does."""

    def decide(self, rows: Iterator[Row], context: Context) -> Mapping[str, Rejected]:
        """Which rows are left out.

        Args:
          rows: all that go on, with the columns in `reads`, in the pipeline's order.
          context: `part` is "".

        Returns:
          By id those that are; all others go on.
        """
        raise NotImplementedError


def each(function: Callable[..., Any]) -> Operator:
    """An operator from a function of one row, or of a row and the context."""
    with_context = len(inspect.signature(function).parameters) > 1

    def operate(rows: Sequence[Row], context: Context) -> list[Any]:
        return [function(row, context) if with_context else function(row) for row in rows]

    return operate


def type_name(kind: Any) -> str:
    """A column's type as text."""
    return kind.__name__ if isinstance(kind, type) else str(kind)


def check_pipeline(source: Columns, stages: Mapping[str, Stage]) -> None:
    """Raise UserError unless each stage finds its columns, with their types.

    Args:
      source: the columns that rows begin with.
      stages: by name, in order.
    """
    known = dict(source)
    for name, stage in stages.items():
        for column, kind in stage.reads.items():
            if column not in known and column in stage.optional:
                continue
            if column not in known:
                raise UserError(
                    f"the stage {name} reads the column {column}, which no stage before it writes;"
                    f" there are {', '.join(known)}."
                )
            if known[column] != kind:
                raise UserError(
                    f"the stage {name} reads {column} as {type_name(kind)}, and it is"
                    f" {type_name(known[column])}."
                )
        for column, kind in stage.writes.items():
            if kind not in TYPES or column in OWN:
                raise UserError(
                    f"the stage {name} writes {column} as {type_name(kind)}; columns other than"
                    f" {', '.join(OWN)} are of {', '.join(map(type_name, TYPES))}."
                )
        known |= stage.writes


def outcomes_of(made: Any, many: bool) -> list[Outcome]:
    """What an operator made of one row, as a list.

    Raises:
      TypeError: it is no outcome.
    """
    single = isinstance(made, Mapping | Rejected | Failed)
    outcomes = list(made) if many and not single else [made]
    for one in outcomes:
        if not isinstance(one, Mapping | Rejected | Failed):
            raise TypeError(f"the stage made {type(one).__name__} of a row")
    return outcomes
