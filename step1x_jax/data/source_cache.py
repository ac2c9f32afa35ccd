"""Results for the latest source pictures: edits of one picture often follow each other."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from step1x_jax.data.edit_loader import LoadedEdit

Value = TypeVar("Value")


class SourceCache(Generic[Value]):
    """A function of edits that depends on their sources alone, computed once for each source.

    Values are forgotten in the order in which they were computed. Whoever got one keeps it: what is
    forgotten costs the time to compute it again, nothing else.
    """

    LIMIT = 64  # sources; latents and embeddings of 64 pictures of 1024 px are about 200 MB

    def __init__(self, compute: Callable[[list[LoadedEdit]], Sequence[Value]]):
        """Takes the function: from edits of different sources to a value for each."""
        self._compute = compute
        self._values: dict[str, Value] = {}

    def get(self, edits: Sequence[LoadedEdit]) -> list[Value]:
        """A value for each edit; all that are not known are computed in one call."""
        new = {e.source_hash: e for e in edits if e.source_hash not in self._values}
        if new:
            computed = self._compute(list(new.values()))
            self._values |= zip(new, computed, strict=True)
        values = [self._values[edit.source_hash] for edit in edits]
        for source_hash in list(self._values)[: -self.LIMIT]:
            del self._values[source_hash]
        return values
