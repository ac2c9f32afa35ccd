import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.embedded import photographs
from step1x_jax.curation.embedded.descriptions import FOLDER, read_descriptions
from step1x_jax.errors import UserError

pytestmark = pytest.mark.curation


def test_views_have_their_shapes_and_are_no_copies(views):
    assert len(views) > 50
    for name, view in views.items():
        width, height = photographs.SHAPES[name.rpartition("_")[2]]
        h, w = view.pixels.shape[:2]
        assert abs(w / h - width / height) < 0.01
        assert min(h, w) >= 200
        assert view.pixels.dtype == np.uint8
    assert {n.rpartition("_")[2] for n in views} == set(photographs.SHAPES)


def test_every_photograph_says_whose_it_is(originals):
    for photograph in originals.values():
        assert photograph.licence
        assert photograph.url.startswith("https://")
        assert set(photograph.shows) == {"en", "cn"}


def test_pixels_are_those_of_the_file(originals):
    path = photographs.find_file("skimage", "data/coffee.png")
    with path.open("rb") as file, Image.open(file) as image:
        np.testing.assert_array_equal(originals["coffee"].pixels, np.asarray(image.convert("RGB")))


def test_what_is_known_moves_with_the_crop(originals):
    whole = originals["coffee"]
    part = photographs.crop_photograph(whole, (100, 20, 500, 400), "part")
    np.testing.assert_array_equal(part.pixels, whole.pixels[20:400, 100:500])
    np.testing.assert_array_equal(part.planes[0].alpha, whole.planes[0].alpha[20:400, 100:500])
    np.testing.assert_allclose(part.planes[0].corners, whole.planes[0].corners - [100, 20])
    assert part.subjects == ()  # the saucer's left is cut off
    assert [s.data.name for s in whole.subjects] == ["cup"]
    # Only the places that are in the crop, in its pixels.
    assert [p.box for p in part.places] == [(330, 0, 400, 30)]


def test_a_bust_is_whole_when_what_may_be_seen_of_it_is(originals):
    whole = originals["astronaut"]
    part = photographs.crop_photograph(whole, (0, 0, 512, 350), "part")
    assert [s.data.bottom for s in part.subjects] == [345]
    assert photographs.crop_photograph(whole, (0, 0, 512, 340), "part").subjects == ()


def test_disparity_is_true(originals):
    """The floor under the motorcycle: nearer is lower, by the plane that a fit finds."""
    disparity = originals["motorcycle"].disparity
    assert disparity is not None
    floor = originals["motorcycle"].planes[0].alpha > 0.99
    rows, columns = np.nonzero(floor & np.isfinite(disparity))
    terms = np.stack([columns, rows, np.ones_like(rows)], -1)
    fit = np.linalg.lstsq(terms, disparity[rows, columns], rcond=None)[0]
    assert fit[1] == pytest.approx(0.171, abs=0.01)  # pixels a row


def test_regions_are_of_their_colour(originals):
    suit = next(r for r in originals["astronaut"].regions if r.name == "suit")
    mean = originals["astronaut"].pixels[suit.weights > 0.5].mean(0)
    assert mean[0] > mean[1] + 60 > mean[2] + 60  # orange
    assert suit.weights[:150].max() == 0  # not in the face


def test_mattes_fit_their_photographs():
    for name, description in read_descriptions().items():
        used = {s.matte for s in description.subjects} | {r.matte for r in description.regions}
        used |= {p.matte for p in description.planes}
        with photographs.find_file(description.package, description.file).open("rb") as file:
            size = Image.open(file).size
        for matte in used - {None}:
            assert Image.open(FOLDER / f"{matte}.png").size == size, name


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match=r"no_such_package.*pip install"):
        photographs.find_file("no_such_package", "data/a.png")
    with pytest.raises(UserError, match="skimage"):
        photographs.find_file("skimage", "data/no_such.png")
