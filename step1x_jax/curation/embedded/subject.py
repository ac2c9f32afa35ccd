"""Subjects added, removed, replaced and moved: cut out of one photograph, laid into another.

A removal is an addition reversed, so that its target is a real photograph.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates, words
from step1x_jax.curation.embedded.compositing import Cutout, SubjectLayer, compose, cut_out, lay
from step1x_jax.curation.embedded.descriptions import PlaceData
from step1x_jax.curation.embedded.photographs import Photograph
from step1x_jax.curation.embedded.types import Edit, Rejection, Words

LEAST_INSIDE = 0.995  # share of a subject that is in the picture: nothing is cut off
LARGEST_SCALE = 1.25  # beyond it a subject looks softer than its surroundings
MOST_COVERED = 0.01  # share of a subject that may lie over what stands there already
# Of a move, as shares of the longer side: thrice what the flow rule asks for, and what the flow
# still finds.
SHORTEST, LONGEST = 0.06, 0.25
TRIES = 12  # draws of a place for one edit

# Where a subject lies, and how, relative to which the rest of an edit is drawn.
Found = tuple[Photograph, str]


class Placement(NamedTuple):
    """A subject's place."""

    place: PlaceData
    centre: tuple[float, float]
    angle: float
    mirror: bool


def make_additions(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits that add something: the source is the photograph."""
    for edit in _additions(Category.SUBJECT_ADD, "add", photograph, others, rng, count):
        yield gates.check(edit) if isinstance(edit, Edit) else edit


def make_removals(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits that remove something: the target is the photograph."""
    for edit in _additions(Category.SUBJECT_REMOVE, "remove", photograph, others, rng, count):
        if isinstance(edit, Edit):
            edit = gates.check(
                Edit(edit.category, edit.target, edit.source, edit.mask, edit.facts, edit.slots)
            )
        yield edit


def make_replacements(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits that put one subject in another's place."""
    category = Category.SUBJECT_REPLACE
    subjects = find_subjects(others)
    for _ in range(count):
        place = _draw_place(photograph, subjects, rng, 2)
        if place is None:
            yield gates.reject_plan(category, photograph, "no_place_for_two_subjects")
            continue
        fitting = _different(place, subjects)
        chosen = [fitting[i] for i in rng.permutation(len(fitting))[:2]]
        unstable = [n for n in chosen if not _is_stable(subjects[n])]
        if unstable:
            yield gates.reject_plan(category, photograph, "mask_unstable", subject=unstable[0])
            continue
        cutouts = [cut_out(*subjects[name]) for name in chosen]
        for _ in range(TRIES):
            drawn = _draw_placement(photograph, place, cutouts, rng)
            layers = [_lay(c, photograph, place, drawn, rng) for c in cutouts]
            reason = next((r for r in (_fault(x, photograph, place) for x in layers) if r), None)
            if reason is None:
                break
        if reason is not None:
            yield gates.reject_plan(category, photograph, reason)
            continue
        old, new = layers
        yield gates.check(
            Edit(
                category,
                compose(photograph.pixels, old),
                compose(photograph.pixels, new),
                old.mask | new.mask,
                _facts("replace", photograph, cutouts),
                {
                    "the": _called(cutouts[0], place),
                    "a": cutouts[1].data.a,
                    "where": _where(photograph, place, old),
                },
            )
        )


def make_motions(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits that move a subject; only what follows the flow rule is accepted."""
    category = Category.MOTION_CHANGE
    subjects = find_subjects(others)
    height, width = photograph.pixels.shape[:2]
    for _ in range(count):
        drawn = _draw_subject(category, photograph, subjects, rng)
        if isinstance(drawn, Rejection):
            yield drawn
            continue
        place, cutout = drawn
        reason: str | None = "no_room_to_move"
        for _ in range(TRIES):
            start = _draw_placement(photograph, place, [cutout], rng)
            end = _draw_placement(photograph, place, [cutout], rng)._replace(
                angle=start.angle, mirror=start.mirror
            )
            size = rng.uniform(*place.holds[cutout.data.name])
            step = np.subtract(end.centre, start.centre)
            if not SHORTEST <= np.hypot(*step) / max(height, width) <= LONGEST:
                continue
            before = lay(cutout, photograph, start.centre, size, start.angle, start.mirror)
            after = lay(cutout, photograph, end.centre, size, end.angle, end.mirror)
            faults = [_fault(x, photograph, place) for x in (before, after)]
            reason = next((f for f in faults if f), None)
            if reason is None:
                break
        if reason is not None:
            yield gates.reject_plan(category, photograph, reason)
            continue
        source, target = compose(photograph.pixels, before), compose(photograph.pixels, after)
        edited = before.mask | after.mask
        flow = gates.foreground_flow(source, target, before.alpha > 0.5, ~edited)
        facts = _facts("move", photograph, [cutout])
        facts.update(foreground_flow=round(flow[0], 2), background_flow=round(flow[1], 2))
        slots = {
            "the": _called(cutout, place),
            "direction": words.direction(*step),
            "where": _where(photograph, place, after),
        }
        edit = Edit(category, source, target, edited, facts, slots)
        if not gates.moves(*flow, max(height, width)):
            yield gates.reject(edit, "no_motion_by_the_flow_rule")
        else:
            yield gates.check(edit)


def find_subjects(photographs: Sequence[Photograph]) -> dict[str, Found]:
    """Subjects by name, each in the photograph that shows it at the largest size."""
    found: dict[str, Found] = {}
    for photograph in photographs:
        for subject in photograph.subjects:
            name = subject.data.name
            if name not in found or photograph.pixels.size > found[name][0].pixels.size:
                found[name] = (photograph, name)
    return dict(sorted(found.items()))


def _additions(
    category: Category,
    action: str,
    photograph: Photograph,
    others: Sequence[Photograph],
    rng: np.random.Generator,
    count: int,
) -> Iterator[Edit | Rejection]:
    """Additions whose common gates have not been asked."""
    subjects = find_subjects(others)
    for _ in range(count):
        drawn = _draw_subject(category, photograph, subjects, rng)
        if isinstance(drawn, Rejection):
            yield drawn
            continue
        place, cutout = drawn
        reason: str | None = None
        for _ in range(TRIES):
            placement = _draw_placement(photograph, place, [cutout], rng)
            layer = _lay(cutout, photograph, place, placement, rng)
            reason = _fault(layer, photograph, place)
            if reason is None:
                break
        if reason is not None:
            yield gates.reject_plan(category, photograph, reason)
            continue
        slots = {
            "a": cutout.data.a,
            "the": _called(cutout, place),
            "where": _where(photograph, place, layer),
        }
        target = compose(photograph.pixels, layer)
        facts = _facts(action, photograph, [cutout])
        yield Edit(category, photograph.pixels, target, layer.mask, facts, slots)


def _draw_subject(
    category: Category,
    photograph: Photograph,
    subjects: Mapping[str, Found],
    rng: np.random.Generator,
) -> tuple[PlaceData, Cutout] | Rejection:
    """A place of the photograph and a subject for it."""
    place = _draw_place(photograph, subjects, rng, 1)
    if place is None:
        return gates.reject_plan(category, photograph, "no_place_for_a_subject")
    fitting = _different(place, subjects)
    name = fitting[int(rng.integers(len(fitting)))]
    if not _is_stable(subjects[name]):
        return gates.reject_plan(category, photograph, "mask_unstable", subject=name)
    return place, cut_out(*subjects[name])


def _different(place: PlaceData, subjects: Mapping[str, Found]) -> list[str]:
    """Subjects that a place holds, one of each that are called the same."""
    by_words: dict[str, str] = {}
    for name in place.holds:
        if name in subjects:
            photograph, _ = subjects[name]
            data = next(s.data for s in photograph.subjects if s.data.name == name)
            by_words.setdefault(data.a["en"], name)
    return list(by_words.values())


def _draw_place(
    photograph: Photograph, subjects: Mapping[str, Found], rng: np.random.Generator, least: int
) -> PlaceData | None:
    """A place that holds so many different subjects; None: there is none."""
    places = [p for p in photograph.places if len(_different(p, subjects)) >= least]
    return places[int(rng.integers(len(places)))] if places else None


def _draw_placement(
    photograph: Photograph, place: PlaceData, cutouts: Sequence[Cutout], rng: np.random.Generator
) -> Placement:
    """A centre in the place's box, so far from the picture's edges as the subjects need."""
    height, width = photograph.pixels.shape[:2]
    left, top, right, bottom = place.box
    spare_x, spare_y = 0.0, 0.0
    if place.manner != "front":
        spare_x = spare_y = max(place.holds[c.data.name][0] / 2 + 2 for c in cutouts)
    x = _draw_between(max(left, spare_x), min(right, width - spare_x), rng)
    y = _draw_between(max(top, spare_y), min(bottom, height - spare_y), rng)
    if place.manner == "front":
        y = height
    turns = {c.data.turns for c in cutouts}
    angle = rng.uniform(0, 360) if turns == {"any"} else 0.0
    mirror = bool(rng.random() < 0.5) and "none" not in turns
    return Placement(place, (x, y), angle, mirror)


def _draw_between(low: float, high: float, rng: np.random.Generator) -> float:
    """A number between two; their middle if they have changed sides."""
    return float(rng.uniform(low, high)) if low < high else (low + high) / 2


def _lay(
    cutout: Cutout,
    photograph: Photograph,
    place: PlaceData,
    drawn: Placement,
    rng: np.random.Generator,
) -> SubjectLayer:
    size = rng.uniform(*place.holds[cutout.data.name])
    return lay(cutout, photograph, drawn.centre, size, drawn.angle, drawn.mirror)


def _fault(layer: SubjectLayer, photograph: Photograph, place: PlaceData) -> str | None:
    """Why a subject cannot be there."""
    if layer.inside < LEAST_INSIDE:
        return "subject_cut_off"
    if photograph.foreground is None or place.manner == "front":
        return None
    there = float((layer.alpha * photograph.foreground).sum() / layer.alpha.sum())
    if place.manner == "lying" and there > MOST_COVERED:
        return "place_taken"
    if place.manner == "worn" and there < 1 - MOST_COVERED:
        return "not_on_the_wearer"
    return None


def _is_stable(found: Found) -> bool:
    return gates.subject_stability(*found) >= gates.LEAST_STABILITY


def _where(photograph: Photograph, place: PlaceData, layer: SubjectLayer) -> Words:
    """Where a subject is, in words."""
    if place.manner == "worn":
        return place.on
    rows, columns = np.nonzero(layer.alpha > 0.5)
    height, width = photograph.pixels.shape[:2]
    if place.manner == "front":
        return words.place(place.on, words.side(float(columns.mean()), width))
    return words.place(
        place.on, words.position(float(columns.mean()), float(rows.mean()), width, height)
    )


def _called(cutout: Cutout, place: PlaceData) -> Words:
    """What a subject is called once it is there."""
    return place.the or cutout.data.the


def _facts(
    action: str, photograph: Photograph, cutouts: Sequence[Cutout]
) -> dict[str, str | float]:
    names = [photograph.original, *(c.original for c in cutouts)]
    return {
        "action": action,
        "photographs": " ".join(dict.fromkeys(names)),
        "subject": " ".join(c.data.name for c in cutouts),
    }
