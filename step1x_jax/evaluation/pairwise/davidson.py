"""Scores of methods from pairwise verdicts: Davidson's model of wins and ties.

With abilities a and b of two methods and the tie parameter nu of a dimension,

    P(first wins) : P(second wins) : P(tie)  =  exp(a) : exp(b) : 2 nu exp((a + b) / 2).

A method has one ability, shared by the dimensions that are fitted together (R. R. Davidson, "On
extending the Bradley-Terry model to accommodate ties", 1970; one ability for several dimensions:
GEditBench v2, arXiv 2603.28547). What is minimised is the negative log-likelihood, each dimension
times its weight, plus half the ridge times the sum of squares of the abilities. It is convex in the
abilities and in log(2 nu), and Newton's method finds the minimum to rounding, of many sets of
counts at once.

Abilities count from their mean, so that names of methods mean nothing. The published code counts
them from the last name: there, renaming a method moves the scores of small studies.

Legend: B any number of sets, M methods, D dimensions, P pairs.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from step1x_jax.evaluation.pairwise.outcomes import TIES, WINS_OF_FIRST, WINS_OF_SECOND

Weighting = Literal["balanced", "by_matches"]
RIDGE = 1.0  # published; it also holds the score of a method that always wins
ELO_MEAN = 1000.0
ELO_SCALE = 400 / math.log(10)  # Elo points of one unit of ability
MOST_STEPS, MOST_HALVINGS = 200, 50
LAST_STEP = 1e-7  # Newton's error after it is about its square
ROUNDING = 1e-12  # of the objective, near its minimum
NO_MINIMUM = "there is no minimum: methods that always won or always lost need a ridge"


@dataclasses.dataclass(frozen=True)
class Fit:
    """Abilities and tie parameters.

    Attributes:
      ability: (..., M) float64 of mean 0.
      tie_nu: (..., D) float64; 0 in a dimension without ties, infinite in one that has only ties
        and so says nothing of abilities; NaN in one without counts.
    """

    ability: np.ndarray
    tie_nu: np.ndarray

    @property
    def elo(self) -> np.ndarray:
        """(..., M) float64 in Elo points, of mean 1000."""
        return ELO_MEAN + ELO_SCALE * self.ability


def fit_davidson(
    counts: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    methods: int,
    *,
    weighting: Weighting = "balanced",
    ridge: float = RIDGE,
    ridge_from: int | None = None,
) -> Fit:
    """Fit one ability a method to the counts of all dimensions.

    Args:
      counts: (..., D, P, 3) wins of the first, wins of the second, ties.
      first: (P,) number of a pair's first method; no pair comes twice.
      second: (P,) number of its second method.
      methods: M.
      weighting: "balanced" gives each dimension the same total weight: the mean number of matches
        over the dimension's own; "by_matches" gives each match the same.
      ridge: weight of the squared abilities. With 0, every method must be tied to every other by
        chains of wins and ties in both directions, or there is no minimum.
      ridge_from: number of the method from which abilities are counted in the ridge alone, as the
        published code does with the last name; None: from their mean.

    Returns:
      The fit of each set of counts.

    Raises:
      ValueError: there is no minimum.
    """
    leading = counts.shape[:-3]
    counts = counts.reshape(-1, *counts.shape[-3:])
    ties, total = counts[..., TIES].sum(-1), counts.sum((-1, -2))  # (B, D)
    origin = np.full(methods, 1 / methods) if ridge_from is None else np.eye(methods)[ridge_from]
    counted = np.eye(methods) - origin  # abilities -> abilities from their origin
    problem = _Problem(
        first=first,
        second=second,
        methods=methods,
        # The last term chooses the abilities of mean 0: nothing else tells them from shifted ones.
        quadratic=ridge * counted.T @ counted + np.full((methods, methods), 1 / methods),
        difference=counts[..., WINS_OF_FIRST] - counts[..., WINS_OF_SECOND],
        ties=counts[..., TIES],
        total=counts.sum(-1),
        weight=np.where(ties < total, _weights(total, weighting), 0),
        has_nu=(ties > 0) & (ties < total),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ties = np.log(2 * ties / (total - ties))  # right if all abilities are equal
    ability, log_ties = _minimise(problem, log_ties)
    ability -= ability.mean(axis=-1, keepdims=True)
    return Fit(ability.reshape(*leading, methods), np.exp(log_ties).reshape(*leading, -1) / 2)


def _weights(total: np.ndarray, weighting: Weighting) -> np.ndarray:
    """(B, D) of the dimensions, from their numbers of matches."""
    if weighting == "by_matches":
        return np.ones_like(total)
    seen = total > 0
    mean = total.sum(-1, keepdims=True) / np.maximum(1, seen.sum(-1, keepdims=True))
    return np.divide(mean, total, out=np.zeros_like(total), where=seen)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The objective of B sets of counts, as a function of abilities (B, M) and log(2 nu) (B, D)."""

    first: np.ndarray  # (P,)
    second: np.ndarray  # (P,)
    methods: int
    quadratic: np.ndarray  # (M, M): half of ability' quadratic ability is added
    difference: np.ndarray  # (B, D, P): wins of the first minus wins of the second
    ties: np.ndarray  # (B, D, P)
    total: np.ndarray  # (B, D, P)
    weight: np.ndarray  # (B, D)
    has_nu: np.ndarray  # (B, D): elsewhere nu is 0, or only ties are there, of weight 0

    def take(self, rows: np.ndarray) -> "_Problem":
        """The problem of some of its sets."""
        names = ("difference", "ties", "total", "weight", "has_nu")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})

    def _gap(self, ability: np.ndarray) -> np.ndarray:
        """(B, 1, P): half of the first's ability minus the second's."""
        return (ability[:, self.first] - ability[:, self.second])[:, None] / 2

    def _log_norm(self, gap: np.ndarray, log_ties: np.ndarray) -> np.ndarray:
        """(B, D, P): log(exp(gap) + exp(-gap) + 2 nu)."""
        decisive = np.abs(gap) + np.log1p(np.exp(-2 * np.abs(gap)))
        return np.logaddexp(decisive, np.where(self.has_nu, log_ties, -np.inf)[..., None])

    def value(self, ability: np.ndarray, log_ties: np.ndarray) -> np.ndarray:
        """(B,) the objective."""
        gap = self._gap(ability)
        finite = np.where(self.has_nu, log_ties, 0)[..., None]
        likelihood = self.difference * gap + self.ties * finite
        likelihood -= self.total * self._log_norm(gap, log_ties)
        loss = -(self.weight * likelihood.sum(-1)).sum(-1)
        return loss + 0.5 * np.einsum("bm,mn,bn->b", ability, self.quadratic, ability)

    def slopes(self, ability: np.ndarray, log_ties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (B, M + D) and Hessian (B, M + D, M + D)."""
        gap = self._gap(ability)
        log_norm = self._log_norm(gap, log_ties)
        first, second = np.exp(gap - log_norm), np.exp(-gap - log_norm)
        tie = np.exp(np.where(self.has_nu, log_ties, -np.inf)[..., None] - log_norm)
        weight = self.weight[..., None]
        total = weight * self.total
        by_gap = (weight * self.difference - total * (first - second)) / 2
        by_ties = (weight * self.ties - total * tie).sum(-1)
        gap_gap = (total * (first + second - (first - second) ** 2) / 4).sum(1)  # (B, P)
        gap_ties = -total * tie * (first - second) / 2
        ties_ties = (total * tie * (1 - tie)).sum(-1)

        size, dimensions = self.methods, self.weight.shape[1]
        gradient = np.zeros((len(ability), size + dimensions))
        gradient[:, :size] = ability @ self.quadratic - self._to_methods(by_gap.sum(1), -1)
        gradient[:, size:] = -np.where(self.has_nu, by_ties, 0)
        hessian = np.zeros((len(ability), size + dimensions, size + dimensions))
        hessian[:, :size, :size] = self.quadratic
        hessian[:, self.first, self.second] -= gap_gap
        hessian[:, self.second, self.first] -= gap_gap
        of_one = np.arange(size)
        hessian[:, of_one, of_one] += self._to_methods(gap_gap, 1)
        for d in range(dimensions):
            mixed = np.where(self.has_nu[:, d, None], self._to_methods(gap_ties[:, d], -1), 0)
            hessian[:, :size, size + d] = hessian[:, size + d, :size] = mixed
            hessian[:, size + d, size + d] = np.where(self.has_nu[:, d], ties_ties[:, d], 1)
        return gradient, hessian

    def _to_methods(self, of_pairs: np.ndarray, sign: int) -> np.ndarray:
        """(B, P) -> (B, M): added to the pair's first method, and `sign` times to its second."""
        sums = np.zeros((self.methods, len(of_pairs)))
        np.add.at(sums, self.first, of_pairs.T)
        np.add.at(sums, self.second, sign * of_pairs.T)
        return sums.T


def _minimise(problem: _Problem, log_ties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method with halved steps, from equal abilities; abilities and log(2 nu)."""
    size = problem.methods
    ability = np.zeros((len(problem.weight), size))
    left = np.arange(len(ability))  # sets that have not arrived
    for _ in range(MOST_STEPS):
        part, at, nu = problem.take(left), ability[left], log_ties[left]
        gradient, hessian = part.slopes(at, nu)
        try:
            step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        except np.linalg.LinAlgError as e:
            raise ValueError(NO_MINIMUM) from e
        scale, value = np.ones((len(left), 1)), part.value(at, nu)
        for _ in range(MOST_HALVINGS):
            to = at + scale * step[:, :size], nu + scale * step[:, size:]
            worse = part.value(*to) > value + ROUNDING * np.abs(value)
            if not worse.any():
                break
            scale[worse] /= 2
        ability[left], log_ties[left] = to
        left = left[np.abs(step).max(axis=-1) > LAST_STEP]
        if not len(left):
            return ability, log_ties
    raise ValueError(NO_MINIMUM)
