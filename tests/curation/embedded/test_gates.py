import dataclasses

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates
from step1x_jax.curation.embedded.photographs import find_file
from step1x_jax.curation.embedded.types import Edit, Rejection

pytestmark = pytest.mark.curation


def edit(change=60, size=20):
    rng = np.random.default_rng(0)
    source = rng.integers(60, 160, (100, 120, 3), np.uint8)
    mask = np.zeros((100, 120), bool)
    mask[30 : 30 + size, 40 : 40 + size] = True
    target = source.copy()
    target[mask] += np.uint8(change)
    return Edit(Category.COLOR_ALTER, source, target, mask, {"action": "recolour"}, {})


def test_a_visible_edit_passes_and_is_measured():
    passed = gates.check(edit())
    assert isinstance(passed, Edit)
    assert passed.facts["change"] > gates.LEAST_CHANGE
    assert passed.facts["region"] == pytest.approx(400 / 12000, abs=1e-4)


def test_planted_defects_are_found():
    def reason(planted):
        rejected = gates.check(planted)
        assert isinstance(rejected, Rejection)
        assert rejected.facts["action"] == "recolour"  # what is known of it stays
        return rejected.reason

    assert reason(edit(change=0)) == "hardly_visible"
    assert reason(edit(change=4)) == "hardly_visible"
    assert reason(edit(size=3)) == "region_too_small"
    leaked = edit()
    leaked.target[0, 0, 2] += 1  # one byte, by one
    assert reason(leaked) == "changed_outside_region"


@pytest.mark.parametrize("name", ["coffee", "flower", "grace_hopper"])
def test_good_masks_are_stable_and_wrong_ones_are_not(originals, name):
    photograph = originals[name]
    subject = photograph.subjects[0]
    alpha = subject.alpha[: subject.data.bottom]
    pixels = photograph.pixels[: subject.data.bottom]
    assert gates.mask_stability(pixels, alpha) >= gates.LEAST_STABILITY
    columns = np.nonzero(alpha > 0.5)[1]
    third = alpha * (np.arange(alpha.shape[1]) < np.quantile(columns, 0.67))  # a third cut off
    assert gates.mask_stability(pixels, third) < gates.LEAST_STABILITY
    shifted = np.roll(alpha, alpha.shape[1] // 14, axis=1)
    assert gates.mask_stability(pixels, shifted) < gates.LEAST_STABILITY


def test_a_mask_of_everything_or_nothing_is_no_mask(originals):
    pixels = originals["coffee"].pixels
    assert gates.mask_stability(pixels, np.zeros(pixels.shape[:2], np.float32)) == 0
    assert gates.mask_stability(pixels, np.ones(pixels.shape[:2], np.float32)) == 0


def test_depth_tells_apart_what_colours_do_not(originals):
    photograph = originals["motorcycle"]
    assert photograph.foreground is not None
    without = gates.mask_stability(photograph.pixels, photograph.foreground)
    assert without < gates.LEAST_STABILITY <= gates.scene_stability(photograph)


def flow_of(source, target, subject, elsewhere):
    flow = gates.foreground_flow(source, target, subject, elsewhere)
    return flow, gates.moves(*flow, max(source.shape[:2]))


def test_a_moved_subject_passes_the_flow_rule(originals):
    """A square of gravel on grass, 24 pixels to the right: flow of 24 there, and of 0 elsewhere."""
    ground, stones = originals["grass"].pixels, originals["gravel"].pixels[:150, :150]
    source, target = ground.copy(), ground.copy()
    before, after = np.zeros((2, 512, 512), bool)
    before[180:330, 150:300], after[180:330, 174:324] = True, True
    source[before], target[after] = stones.reshape(-1, 3), stones.reshape(-1, 3)
    (foreground, background), moved = flow_of(source, target, before, ~(before | after))
    assert moved
    assert foreground == pytest.approx(24, abs=3)
    assert background < 0.5


def test_a_camera_pan_fails_the_flow_rule(originals):
    whole = originals["china"].pixels
    source, target = whole[:, :600], whole[:, 24:624]
    subject = originals["china"].foreground[:, :600] > 0.5
    (foreground, background), moved = flow_of(source, target, subject, ~subject)
    assert not moved
    assert foreground == pytest.approx(24, abs=4)
    assert background > 8


def test_the_stereo_pair_fails_the_flow_rule(originals):
    photograph = originals["motorcycle"]
    path = find_file("skimage", "data/motorcycle_right.png")
    with path.open("rb") as file, Image.open(file) as image:
        right = np.asarray(image.convert("RGB"))
    bike = photograph.foreground > 0.5
    bike &= ~(photograph.planes[0].alpha > 0.5)
    (foreground, background), moved = flow_of(photograph.pixels, right, bike, ~bike)
    assert foreground > 20  # all of it seems to move
    assert not moved, (foreground, background)


def test_a_still_picture_does_not_move(originals):
    pixels = originals["coffee"].pixels
    subject = originals["coffee"].foreground > 0.5
    _, moved = flow_of(pixels, pixels, subject, ~subject)
    assert not moved


def test_planes_are_told_from_what_is_not_flat(originals):
    photograph = originals["motorcycle"]
    floor = photograph.planes[0].alpha
    assert gates.plane_error(photograph.disparity, floor) < gates.MOST_PLANE_ERROR
    everything = np.ones_like(floor)
    assert gates.plane_error(photograph.disparity, everything) > gates.MOST_PLANE_ERROR
    unknown = np.full_like(floor, np.nan)
    assert gates.plane_error(unknown, floor) == float("inf")


def test_a_rejection_before_an_edit_names_its_photograph(originals):
    rejected = gates.reject_plan(Category.PS_HUMAN, originals["coffee"], "no_face_found", share=0.1)
    assert dataclasses.astuple(rejected) == (
        Category.PS_HUMAN,
        "no_face_found",
        {"photographs": "coffee", "share": 0.1},
    )
