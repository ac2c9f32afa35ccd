"""Edits to be painted: which objects, where, and what."""

import numpy as np
import pytest
from PIL import Image

from step1x_jax.curation.encoding import encode_mask
from step1x_jax.curation.operators.fill_plans import BACKGROUND, PlanFills, grow
from step1x_jax.errors import UserError
from tests.curation.operators.tiny import CONTEXT, decoded, encoded


def mask_of(share):
    mask = np.zeros((100, 100), bool)
    mask[:, : round(share * 100)] = True
    return encode_mask(mask)


ROW = {
    "id": "a",
    "picture": encoded(0, (100, 100)),
    "boxes": {"boxes": [[0, 0, 1, 1]] * 4, "labels": ["cat", "wall", "dot", "dog"]},
    "masks": [mask_of(0.2), mask_of(0.9), mask_of(0.01), mask_of(0.3)],
    "mask_scores": {"scores": [0.9, 0.9, 0.9, 0.5]},
}


def plan(**settings):
    (made,) = PlanFills(**settings).open()([ROW], CONTEXT)
    return list(made)


def test_objects_that_can_be_painted_over():
    """The wall is too large, the dot too small, the dog's mask bad."""
    (made,) = plan()
    assert made["category"] == "subject-remove"
    assert made["fill_prompt"] == BACKGROUND
    assert made["facts"] == {"object": "cat", "area": 0.2, "score": 0.9}
    assert made["source"] == ROW["picture"]
    mask = decoded(made["mask"]) > 0
    assert mask[:, :21].all()  # a hundredth of the side more
    assert not mask[:, 21:].any()
    assert [one["facts"]["object"] for one in plan(least_score=0.4)] == ["cat", "dog"]
    assert [one["facts"]["object"] for one in plan(most_area=0.95)] == ["cat", "wall"]


def test_replacements():
    removed, replaced = plan(things=("cat", "a red hat"))
    assert removed["category"] == "subject-remove"
    assert replaced["category"] == "subject-replace"
    assert replaced["fill_prompt"] == replaced["facts"]["thing"] == "a red hat"
    assert len(plan(things=("cat",))) == 1


def test_growing():
    mask = Image.new("L", (300, 200))
    mask.putpixel((100, 100), 255)
    assert np.asarray(grow(mask)).sum() == 255 * 25  # two pixels on each side


@pytest.mark.parametrize("areas", [(0.5, 0.4), (-0.1, 0.4), (0.1, 1.1)])
def test_areas_that_cannot_be(areas):
    with pytest.raises(UserError, match="least_area"):
        PlanFills(least_area=areas[0], most_area=areas[1]).validate()
