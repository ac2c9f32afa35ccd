"""A small seeded run of every category: what is accepted passes all gates, again and the same."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates, painting, templates
from step1x_jax.curation.embedded.color import region_hue, rotate_hue
from step1x_jax.curation.embedded.colours import to_lab
from step1x_jax.curation.embedded.compositing import compose, cut_out, lay
from step1x_jax.curation.embedded.human import find_faces
from step1x_jax.curation.embedded.methods import METHODS
from step1x_jax.curation.embedded.types import Edit, Rejection
from step1x_jax.curation.filters.language import check_languages

pytestmark = pytest.mark.curation
# Views that every category can use some of; each a few hundred pixels wide.
VIEWS = ("grace_hopper_4x3", "coffee_3x2", "gravel_2x3", "motorcycle_3x4", "china_1x1", "coins_1x1")
COUNT = 2
# What a photograph does not have: these give no edit, and say why.
NOTHING = {
    (Category.PS_HUMAN, "coffee_3x2"): "no_face_found",
    (Category.TEXT_CHANGE, "china_1x1"): "no_place_for_text",
    (Category.MATERIAL_ALTER, "gravel_2x3"): "no_flat_surface",
    (Category.COLOR_ALTER, "coins_1x1"): "no_region_of_one_colour",
    (Category.BACKGROUND_CHANGE, "gravel_2x3"): "nothing_stands_out",
    (Category.SUBJECT_ADD, "motorcycle_3x4"): "no_place_for_a_subject",
    (Category.TONE_TRANSFER, "coins_1x1"): "no_tone_fits",
}


def run(category, views, originals, seed=0):
    others = list(originals.values())
    for number, name in enumerate(VIEWS):
        rng = np.random.default_rng((seed, number))
        for result in METHODS[category](views[name], others, rng, COUNT):
            yield name, result


@pytest.fixture(scope="module")
def results(views, originals):
    return {category: list(run(category, views, originals)) for category in Category}


@pytest.mark.parametrize("category", Category)
def test_accepted_edits_pass_all_gates(results, originals, category):
    edits = [(name, r) for name, r in results[category] if isinstance(r, Edit)]
    assert edits, category
    for name, edit in edits:
        assert edit.category is category
        assert edit.source.dtype == edit.target.dtype == np.uint8
        assert edit.mask.dtype == bool
        assert isinstance(gates.check(edit), Edit), name
        # Where its pixels are from, its photograph first: licences go with them.
        names = str(edit.facts["photographs"]).split()
        assert names[0] == name.rpartition("_")[0]
        assert set(names) <= set(originals)
        instruction = templates.write_instruction(
            category, edit.facts, edit.slots, np.random.default_rng(1)
        )
        row = {"instruction_en": instruction.en, "instruction_cn": instruction.cn}
        assert check_languages(row) is None, row


@pytest.mark.parametrize("category", Category)
def test_every_draw_gives_an_edit_or_a_reason(results, category):
    assert len(results[category]) == COUNT * len(VIEWS)
    for (kind, name), reason in NOTHING.items():
        if kind is category:
            found = [r for n, r in results[category] if n == name]
            assert {r.reason for r in found if isinstance(r, Rejection)} == {reason}
            assert len(found) == COUNT


def test_the_same_arguments_give_the_same_edits(results, views, originals):
    for category in (Category.SUBJECT_REPLACE, Category.MATERIAL_ALTER, Category.TONE_TRANSFER):
        again = list(run(category, views, originals))
        for (_, one), (_, other) in zip(results[category], again, strict=True):
            if isinstance(one, Rejection):
                assert one == other
                continue
            for field in ("source", "target", "mask"):
                np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
            assert (one.facts, one.slots) == (other.facts, other.slots)
        others = list(run(category, views, originals, seed=1))
        assert any(
            not np.array_equal(one.target, other.target)
            for (_, one), (_, other) in zip(results[category], others, strict=True)
            if isinstance(one, Edit) and isinstance(other, Edit)
        )


def test_removals_have_photographs_as_targets(results, views):
    for name, edit in results[Category.SUBJECT_REMOVE]:
        if isinstance(edit, Edit):
            np.testing.assert_array_equal(edit.target, views[name].pixels)
    for name, edit in results[Category.SUBJECT_ADD]:
        if isinstance(edit, Edit):
            np.testing.assert_array_equal(edit.source, views[name].pixels)


def test_motions_follow_the_flow_rule(results):
    found = [r for _, r in results[Category.MOTION_CHANGE] if isinstance(r, Edit)]
    for edit in found:
        flow = float(edit.facts["foreground_flow"]), float(edit.facts["background_flow"])
        assert gates.moves(*flow, max(edit.source.shape[:2]))


def test_a_colour_is_what_it_is_called(views):
    """Turned by an angle, a region's mean hue has turned by it, and its lightness has not."""
    view = views["coffee_3x2"]
    lab, region = to_lab(view.pixels), view.regions[0]
    before, _ = region_hue(lab, region)
    turned = rotate_hue(view.pixels, lab, region, 60.0)
    after, _ = region_hue(to_lab(turned), region)
    assert after - before == pytest.approx(60, abs=6)  # the screen's colours end somewhere
    inside = region.weights > 0.99
    difference = np.abs(to_lab(turned)[inside][:, 0] - lab[inside][:, 0])
    assert np.median(difference) < 1
    np.testing.assert_array_equal(turned[region.weights == 0], view.pixels[region.weights == 0])


def test_a_subject_is_laid_where_it_was_said(views, originals):
    host, cutout = views["gravel_2x3"], cut_out(originals["flower"], "dahlia")
    layer = lay(cutout, host, (150.0, 260.0), 100.0)
    rows, columns = np.nonzero(layer.alpha > 0.5)
    assert columns.mean() == pytest.approx(150, abs=2)
    assert rows.mean() == pytest.approx(260, abs=2)
    assert np.ptp(columns) == pytest.approx(100, abs=4)
    assert layer.inside == pytest.approx(1, abs=1e-3)
    laid = compose(host.pixels, layer)
    np.testing.assert_array_equal(laid[~layer.mask], host.pixels[~layer.mask])
    shadow = layer.mask & (layer.alpha == 0)
    assert laid[shadow].mean() < host.pixels[shadow].mean()
    assert lay(cutout, host, (10.0, 260.0), 100.0).inside < 0.7  # half of it is outside


def test_faces_are_found_where_they_are(views):
    [(left, top, right, bottom)] = find_faces(views["grace_hopper_4x3"])
    assert left < 262 < right  # the nose, at 262, 235 of the photograph
    assert top < 235 < bottom
    assert find_faces(views["motorcycle_3x4"]) == []


@pytest.mark.parametrize(
    "style",
    ["pixel_art", "watercolour", "oil_painting", "pencil_sketch", "ink_wash", "comic"],
)
def test_styles_are_pure_functions_of_pixels(views, style):
    pixels = views["china_1x1"].pixels
    kept = pixels.copy()
    painted = getattr(painting, style)(pixels)
    assert painted.shape == pixels.shape
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(pixels, kept)
    np.testing.assert_array_equal(painted, getattr(painting, style)(pixels))
    # It still shows the picture: light parts are light.
    grey, light = painted.mean(-1).reshape(-1), pixels.mean(-1).reshape(-1)
    assert np.corrcoef(grey, light)[0, 1] > 0.6
