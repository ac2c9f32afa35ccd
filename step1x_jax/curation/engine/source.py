"""Where rows come from: a stage without a stage before it."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from step1x_jax.curation.engine.rows import Context, Outcome
from step1x_jax.curation.engine.stage import Stage


@dataclasses.dataclass(frozen=True)
class Unit:
    """What a source makes a part from.

    Attributes:
      payload: for `Source.read`, such as names of files.
      stamp: changes when the part would be another.
    """

    payload: Any
    stamp: str


@dataclasses.dataclass
class Source(Stage):
    """The first stage; `writes` are the columns that rows begin with."""

    resources: ClassVar = {"CPU": 1}

    def units(self) -> Sequence[Unit]:
        """The parts to make, in an order that is always the same.

        Raises:
          UserError: there is nothing, or it cannot be looked at.
        """
        raise NotImplementedError

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """Make the rows of a part.

        Args:
          payload: of its unit.
          context: what else there is to know.

        Yields:
          Id and columns of each row, or why it is left out.
        """
        raise NotImplementedError


def id_of(origin: str) -> str:
    """The id of a row that comes from a place: a file, or a part of one."""
    return hashlib.sha256(origin.encode(errors="surrogatepass")).hexdigest()[:20]
