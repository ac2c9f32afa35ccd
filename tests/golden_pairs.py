"""Golden vectors of pairwise evaluation, recomputed for tests/golden.py.

The published ridge counts abilities from the last name, so the fits here do, too; ours, which count
from the mean, run the same code with another argument. The published intervals draw the keys of
each dimension independently; the draws are made here as there, and the fits are ours.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from step1x_jax.evaluation.pairwise.bootstrap import enclose
from step1x_jax.evaluation.pairwise.davidson import fit_davidson
from step1x_jax.evaluation.pairwise.orders import measure_orders
from step1x_jax.evaluation.pairwise.outcomes import Outcomes, count_outcomes
from step1x_jax.evaluation.pairwise.ranking import rank
from step1x_jax.evaluation.pairwise.replies import find_winner
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict, combine_orders

ELO_TOLERANCE = 0.01  # that of the file; the published optimiser itself stops 0.007 away
NU_TOLERANCE = 1e-3  # relative; the same distance from the optimum
OFFSET_TOLERANCE = 10  # that of the file, of rounded offsets
SETTINGS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "by_matches": {"weighting": "by_matches"},
    "ties_dropped": {},
    "no_ridge": {"ridge": 0},
    "swap_agreed": {},
}

# Name, ours, golden, largest difference.
Compared = tuple[str, Any, Any, float]


def compare_pairwise(values: dict[str, Any]) -> Iterator[Compared]:
    """The quantities of a gedit2_pairwise.json."""
    verdicts = [
        PairVerdict(
            one["dimension"],
            one["task_type"],
            one["key"],
            one["first"],
            one["second"],
            one["winner"],
        )
        for one in values["judgements"]
    ]
    expected = values["expected"]
    matches = {
        "ties_dropped": [one for one in verdicts if one.winner != "tie"],
        "swap_agreed": combine_orders(verdicts),
    }
    for name, settings in SETTINGS.items():
        for table, golden in expected[name].items():
            of = matches.get(name, verdicts)
            outcomes = count_outcomes(one for one in of if table in ("overall", one.dimension))
            elo, tie_nu = _fit(outcomes, settings)
            yield from _named(f"{name} {table} elo", elo, golden["elo"], ELO_TOLERANCE)
            for dimension, nu in golden.get("tie_nu", {}).items():
                tolerance = NU_TOLERANCE * nu
                yield f"{name} {table} nu {dimension}", tie_nu.get(dimension, 0.0), nu, tolerance
    yield from _compare_orders(verdicts, expected)
    yield from _compare_bootstrap(verdicts, expected["bootstrap"])


def _fit(outcomes: Outcomes, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    fit = _fit_counts(outcomes, outcomes.counts(), settings)
    elo = dict(zip(outcomes.methods, fit.elo, strict=True))
    return elo, dict(zip(outcomes.dimensions, fit.tie_nu, strict=True))


def _fit_counts(outcomes: Outcomes, counts: np.ndarray, settings: dict[str, Any]):
    last = len(outcomes.methods) - 1
    first, second = outcomes.first, outcomes.second
    return fit_davidson(counts, first, second, last + 1, ridge_from=last, **settings)


def _named(name: str, ours: dict[str, Any], golden: dict[str, Any], tolerance: float):
    assert set(ours) == set(golden), name
    for key, value in golden.items():
        yield f"{name} {key}", ours[key], value, tolerance


def _compare_orders(verdicts: list[PairVerdict], expected: dict[str, Any]) -> Iterator[Compared]:
    for dimension, golden in expected["position"].items():
        orders = measure_orders(one for one in verdicts if one.dimension == dimension)
        ours = {**dataclasses.asdict(orders), "n": orders.verdicts}
        for name, value in golden.items():
            if value is None or ours[name] is None:
                yield f"position {dimension} {name}", ours[name] is value, True, 0
            else:
                yield f"position {dimension} {name}", ours[name], value, 0
    judged = {
        (score.method, table.dimension): score.judged
        for table in rank(verdicts, resamples=1)
        for score in table.scores
    }
    for method, golden in expected["judged"].items():
        for dimension, value in golden.items():
            yield f"judged {method} {dimension}", judged[method, dimension], value, 0


def _compare_bootstrap(verdicts: list[PairVerdict], golden: dict[str, Any]) -> Iterator[Compared]:
    given = [one for one in verdicts if one.winner is not None]
    dimensions = list(dict.fromkeys(one.dimension for one in given))
    # Keys of their own for each dimension, one dimension after the other.
    apart = [
        dataclasses.replace(one, key=f"{name}/{one.key}")
        for name in dimensions
        for one in given
        if one.dimension == name
    ]
    sizes = [len({one.key for one in apart if one.dimension == name}) for name in dimensions]
    generator = np.random.default_rng(golden["seed"])
    drawn = np.array(
        [
            np.concatenate(
                [
                    np.bincount(generator.integers(0, size, size=size), minlength=size)
                    for size in sizes
                ]
            )
            for _ in range(golden["resamples"])
        ],
        np.float64,
    )
    outcomes = count_outcomes(apart)
    elo = _fit_counts(outcomes, outcomes.counts(), {}).elo
    ends = enclose(_fit_counts(outcomes, outcomes.counts(drawn), {}).elo)
    offsets = np.stack(ends, axis=-1) - elo[:, None]
    for i, method in enumerate(outcomes.methods):
        value = golden["offsets_95_overall_balanced"][method]
        yield f"bootstrap offsets {method}", offsets[i], value, OFFSET_TOLERANCE


def compare_replies(rows: list[dict[str, Any]]) -> Iterator[Compared]:
    """The recommended verdicts of a gedit2_judge_replies.json."""
    for number, row in enumerate(rows):
        ours = find_winner(row["reply"])
        yield f"{number}: {row['reply']!r:.40}", ours == row["recommended"], True, 0
