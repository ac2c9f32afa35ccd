"""Caches results for the latest source pictures: edits of one picture are often consecutive."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from step1x_jax.data.edit_loader import LoadedEdit

Value = TypeVar("Value")


class SourceCache(Generic[Value]):
    """Caches a function of edits that depends only on their source pictures.

    Values are evicted in the order in which they were computed. Callers keep the values that they
    got; an evicted value only costs the time to compute it again.
    """

    LIMIT = 64  # sources; latents and embeddings of 64 pictures of 1024 px are about 200 MB

    def __init__(self, compute: Callable[[list[LoadedEdit]], Sequence[Value]]):
        """Store the function, which maps edits of distinct sources to one value each."""
        self._compute = compute
        self._values: dict[str, Value] = {}

    def get(self, edits: Sequence[LoadedEdit]) -> list[Value]:
        """Return a value for each edit; missing values are computed in one call."""
        new = {e.source_hash: e for e in edits if e.source_hash not in self._values}
        if new:
            computed = self._compute(list(new.values()))
            self._values |= zip(new, computed, strict=True)
        values = [self._values[edit.source_hash] for edit in edits]
        for source_hash in list(self._values)[: -self.LIMIT]:
            del self._values[source_hash]
        return values
