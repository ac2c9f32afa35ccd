import dataclasses
import json

import numpy as np
import pytest

from step1x_jax.quickstart import report
from step1x_jax.quickstart.held_out import HeldOutEdit


def flat(*levels):
    """Make pictures of one grey level each: (N, 2, 4, 3) uint8."""
    return np.stack([np.full((2, 4, 3), level, np.uint8) for level in levels])


def test_psnr_of_a_constant_error():
    # 20 log10(255 / error); exact up to float64 rounding.
    np.testing.assert_allclose(
        report.psnr(flat(10, 0, 200), flat(20, 255, 199)),
        20 * np.log10([255 / 10, 1.0, 255.0]),
        rtol=1e-12,
    )


def test_psnr_averages_squares_not_decibels():
    a = flat(0)
    b = a.copy()
    b[0, 0] = 100  # half of the pixels: mean squared error 5000
    np.testing.assert_allclose(report.psnr(a, b), [10 * np.log10(65025 / 5000)], rtol=1e-12)


def test_psnr_of_equal_pictures_is_finite():
    assert report.psnr(flat(7), flat(7)).tolist() == [100.0]


def test_photo_blind_is_the_mean_per_kind():
    blind = report.photo_blind(flat(0, 10, 100, 250), ["fog", "ball", "fog", "ball"])
    assert blind[:, 0, 0, 0].tolist() == [50, 130, 50, 130]


def test_nearest():
    targets = flat(0, 100, 200)
    assert report.find_nearest(flat(10, 149, 151, 255, 49), targets).tolist() == [0, 1, 2, 2, 0]
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 256, (n, 5, 6, 3), dtype=np.uint8) for n in (7, 9))
    plain = [min(range(9), key=lambda j, x=x: np.sum((x.astype(int) - b[j]) ** 2)) for x in a]
    assert report.find_nearest(a, b).tolist() == plain


@pytest.fixture
def scores():
    edits = [
        HeldOutEdit(crop, kind, "en", f"{kind} it", "", "")
        for crop in ("cat", "house")
        for kind in ("fog", "night")
    ]
    return report.score_edits(
        edits,
        sources=flat(100, 100, 150, 150),
        targets=flat(200, 20, 240, 60),
        edited=flat(205, 50, 210, 58),  # the second is nearest to the house's night
        reconstructed=flat(201, 21, 241, 61),
    )


def test_scores(scores):
    first = dataclasses.asdict(scores[0])
    expected = {
        "psnr_source": 20 * np.log10(255 / 100),
        "psnr_edited": 20 * np.log10(255 / 5),
        "psnr_photo_blind": 20 * np.log10(255 / 20),  # the mean is 220
        "psnr_autoencoder": 20 * np.log10(255),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(first.pop(name), value, rtol=1e-12)
    assert first == {
        "crop": "cat",
        "kind": "fog",
        "instruction": "fog it",
        "right_photo": True,
        "right_kind": True,
    }
    # 50 is nearer to 60 than to 20; 210 is nearer to 200 than to 240.
    assert [(s.right_photo, s.right_kind) for s in scores] == [
        (True, True),
        (False, True),
        (False, True),
        (True, True),
    ]


def test_pictures_are_compared_with_those_of_their_shape():
    """Four edits of two alternating shapes score like two and two."""
    edits = [
        HeldOutEdit(crop, "fog", "en", "fog it", "", "") for crop in ("cat", "house", "dog", "tree")
    ]
    levels = ((100, 20, 50, 30), (200, 120, 210, 90), (180, 119, 190, 91), (201, 121, 211, 91))
    shapes = ((2, 4, 3), (4, 2, 3)) * 2
    pictures = [
        [np.full(shape, level, np.uint8) for level, shape in zip(row, shapes, strict=True)]
        for row in levels
    ]
    scores = report.score_edits(edits, *pictures)
    assert [s.crop for s in scores] == [e.crop for e in edits]
    for chosen in ([0, 2], [1, 3]):
        alone = report.score_edits(
            [edits[i] for i in chosen], *([p[i] for i in chosen] for p in pictures)
        )
        assert [scores[i] for i in chosen] == alone
    np.testing.assert_allclose(scores[0].psnr_photo_blind, 20 * np.log10(255 / 5))  # 205 for 200


def test_mean_gain(scores):
    errors = [(100, 5), (80, 30), (90, 30), (90, 2)]
    gain = np.mean([20 * np.log10(before / after) for before, after in errors])
    np.testing.assert_allclose(report.mean_gain(scores), gain, rtol=1e-12)


def test_json_has_the_promised_form(scores):
    content = json.loads(json.dumps(report.to_json(scores, 12.5)))
    assert list(content) == ["edits", "mean_gain_db", "seconds"]
    assert content["seconds"] == 12.5
    assert len(content["edits"]) == 4
    assert set(content["edits"][0]) == {
        "crop", "kind", "instruction", "psnr_source", "psnr_edited", "psnr_photo_blind",
        "psnr_autoencoder", "right_photo", "right_kind",
    }  # fmt: skip


def test_table(scores):
    head, fog, night, line, total = report.format_table(scores).splitlines()
    assert len({len(head), len(fog), len(night), len(line), len(total)}) == 1
    assert fog.split()[0] == "fog"
    assert fog.split()[-2:] == ["1/2", "2/2"]
    assert night.split()[-2:] == ["1/2", "2/2"]
    assert total.split()[-2:] == ["2/4", "4/4"]
    assert f"{report.mean_gain(scores):+.1f}" in total.split()
