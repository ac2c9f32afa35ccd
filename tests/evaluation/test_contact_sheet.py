"""The sheet of pictures that scores differ about."""

import numpy as np

from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.comparison import largest_disagreements, pair_samples
from step1x_jax.evaluation.contact_sheet import HEIGHT, draw_disagreements
from step1x_jax.evaluation.method_pictures import picture_path
from step1x_jax.evaluation.statistics import score_samples
from tests.evaluation.scores import judgement
from tests.evaluation.toy import picture, toy_samples, write_results

SAMPLES = toy_samples(1)[:6]


def scored(low):
    judgements = [
        judgement(one.id.task, [low + n], [low + n], one.id.key, one.id.language)
        for n, one in enumerate(SAMPLES)
    ]
    return score_samples(judgements, GEDIT)


def shows(sheet, image):
    """Whether a picture, scaled as they are, is somewhere on the sheet."""
    wanted = np.asarray(image.resize((round(image.width * HEIGHT / image.height), HEIGHT)))
    pixels = np.asarray(sheet)
    ys, xs = np.nonzero((pixels == wanted[0, 0]).all(-1))
    h, w = wanted.shape[:2]
    return any(
        np.array_equal(pixels[y : y + h, x : x + w], wanted) for y, x in zip(ys, xs, strict=True)
    )


def test_source_and_both_results_are_shown(tmp_path):
    folders = {name: write_results(tmp_path / name, SAMPLES, name) for name in "ab"}
    pairs = largest_disagreements(pair_samples(scored(3), scored(1)), 2)
    known = {SAMPLES[0].id: SAMPLES[0]} | {one.id: one for one in SAMPLES}
    sheet, left_out = draw_disagreements(pairs, folders, GEDIT, known, "input_image")
    assert left_out == []
    chosen = [one.id for one, _ in pairs]
    for sample in SAMPLES:
        there = sample.id in chosen
        for name in "ab":
            assert shows(sheet, picture(f"{name} {' '.join(sample.id)}")) == there
        if there:
            assert shows(sheet, picture(sample.id.key))
    narrow, _ = draw_disagreements(pairs, folders, GEDIT, {}, "input_image")
    assert narrow.width < sheet.width  # without a data set there is no source


def test_what_cannot_be_shown_is_told(tmp_path):
    folders = {name: write_results(tmp_path / name, SAMPLES, name) for name in "ab"}
    picture_path(folders["a"], SAMPLES[0].id, "fullset").unlink()
    picture_path(folders["b"], SAMPLES[1].id, "fullset").write_bytes(b"")
    pairs = largest_disagreements(pair_samples(scored(3), scored(1)), 10)
    sheet, left_out = draw_disagreements(pairs, folders, GEDIT, {}, "input_image")
    assert set(left_out) == {SAMPLES[0].id, SAMPLES[1].id}
    assert sheet.height > 4 * HEIGHT
    nothing, left_out = draw_disagreements(
        pairs, dict.fromkeys("ab", tmp_path / "no"), GEDIT, {}, "input_image"
    )
    assert nothing is None
    assert len(left_out) == 6
