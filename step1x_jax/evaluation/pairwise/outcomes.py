"""Verdicts as counts, which are all that scores depend on.

Legend: M methods, D dimensions, P pairs of methods, K keys.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict, Winner

WINS_OF_FIRST, WINS_OF_SECOND, TIES = range(3)  # the last axis of counts
OUTCOMES: tuple[Winner, ...] = ("first", "second", "tie")


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """How often methods won against each other.

    Attributes:
      methods: names, sorted.
      dimensions: names, in the order in which they were first seen.
      first: (P,) the number in `methods` of a pair's first method.
      second: (P,) that of its other one, always the larger number.
      by_key: (K, D * P * 3) sparse counts of wins of the first, of the second, and ties. A key's
        languages count as one: they are edits of the same picture.
    """

    methods: tuple[str, ...]
    dimensions: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    by_key: sparse.csr_array

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, P, 3), of counts."""
        return len(self.dimensions), len(self.first), len(OUTCOMES)

    def counts(self, drawn: np.ndarray | None = None) -> np.ndarray:
        """(..., D, P, 3) float64: each key once, or as often as `drawn` (..., K) says."""
        if drawn is None:
            drawn = np.ones(self.by_key.shape[0])
        rows = drawn.reshape(-1, drawn.shape[-1])  # a sparse array takes no more axes
        return (rows @ self.by_key).reshape(*drawn.shape[:-1], *self.shape)

    def of_dimension(self, name: str) -> "Outcomes":
        """Return those of one dimension, with the methods that were compared in it; keys stay."""
        number = self.dimensions.index(name)
        size = len(self.first) * len(OUTCOMES)
        by_key = self.by_key[:, number * size : (number + 1) * size]
        pairs = np.flatnonzero(by_key.sum(axis=0).reshape(-1, len(OUTCOMES)).sum(axis=-1))
        columns = (pairs[:, None] * len(OUTCOMES) + np.arange(len(OUTCOMES))).ravel()
        ends = np.stack([self.first[pairs], self.second[pairs]])
        methods, ends = np.unique(ends, return_inverse=True)
        first, second = ends.reshape(2, -1)
        names = tuple(self.methods[i] for i in methods)
        return Outcomes(names, (name,), first, second, by_key[:, columns])


def count_outcomes(verdicts: Iterable[PairVerdict]) -> Outcomes:
    """Count verdicts; those without a winner are left out.

    Args:
      verdicts: of one judge; each counts as one match, so of both orders their combination.

    Raises:
      UserError: no verdict has a winner.
    """
    given = [one for one in verdicts if one.winner is not None]
    if not given:
        raise UserError("there is no verdict with a winner or a tie; ask a judge that gives some.")
    methods = sorted({name for one in given for name in (one.first, one.second)})
    number = {name: i for i, name in enumerate(methods)}
    dimensions = list(dict.fromkeys(one.dimension for one in given))
    dimension = {name: i for i, name in enumerate(dimensions)}
    keys = {key: i for i, key in enumerate(dict.fromkeys((one.task, one.key) for one in given))}
    ordered = [sorted((number[one.first], number[one.second])) for one in given]
    pairs, pair = np.unique(np.array(ordered), axis=0, return_inverse=True)
    # Of a verdict whose first method is the pair's second one, the two kinds of wins change places.
    outcome = [
        TIES if one.winner == "tie" else int((one.winner == "first") != (number[one.first] == low))
        for one, (low, _) in zip(given, ordered, strict=True)
    ]
    shape = len(dimensions), len(pairs), len(OUTCOMES)
    columns = np.ravel_multi_index(
        (np.array([dimension[one.dimension] for one in given]), pair.ravel(), np.array(outcome)),
        shape,
    )
    rows = [keys[one.task, one.key] for one in given]
    by_key = sparse.coo_array(
        (np.ones(len(given)), (rows, columns)), shape=(len(keys), int(np.prod(shape)))
    ).tocsr()  # adds what falls into one cell
    return Outcomes(tuple(methods), tuple(dimensions), pairs[:, 0], pairs[:, 1], by_key)


def check_connected(outcomes: Outcomes) -> None:
    """Raise UserError if methods fall into groups that no comparison connects, by their names."""
    size = len(outcomes.methods)
    edges = np.ones(len(outcomes.first))
    graph = sparse.coo_array((edges, (outcomes.first, outcomes.second)), shape=(size, size))
    groups, group = connected_components(graph, directed=False)
    if groups > 1:
        names = [
            ", ".join(name for name, of in zip(outcomes.methods, group, strict=True) if of == i)
            for i in range(groups)
        ]
        raise UserError(
            f"no comparison in {', '.join(outcomes.dimensions)} connects {' with '.join(names)};"
            " judge pairs across these groups, or rank each group alone with --methods."
        )
