"""Measures of pixels against closed forms, and averages that hide nothing."""

import json
import math

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.evaluation.method_pictures import find_pictures
from step1x_jax.evaluation.reference import (
    PIXEL_MEASURES,
    Measured,
    average_measures,
    measure_l1,
    measure_l2,
    measure_psnr,
    measure_samples,
    measure_ssim,
)
from step1x_jax.evaluation.reference_tables import reference_to_markdown
from step1x_jax.evaluation.samples import SampleId
from tests.evaluation.toy import picture, toy_samples, write_results

SIMPLE = [one for one in PIXEL_MEASURES if one.name != "ssim"]  # without scikit-image


def test_differences_that_are_known():
    grey = np.full((20, 30, 3), 0.5)
    assert measure_l1(grey, grey) == measure_l2(grey, grey) == 0
    assert measure_psnr(grey, grey) == math.inf
    # a tenth off everywhere: L1 0.1, L2 0.01, 20 dB
    other = grey + 0.1
    assert measure_l1(other, grey) == pytest.approx(0.1, abs=1e-15)
    assert measure_l2(other, grey) == pytest.approx(0.01, abs=1e-15)
    assert measure_psnr(other, grey) == pytest.approx(20, abs=1e-12)
    # one pixel of 600 by 1 in one channel of three
    dot = grey.copy()
    dot[3, 4, 1] += 0.5
    assert measure_l1(dot, grey) == pytest.approx(0.5 / 1800, abs=1e-15)
    assert measure_psnr(dot, grey) == pytest.approx(-10 * math.log10(0.25 / 1800), abs=1e-12)


def plain_ssim(a, b):
    """Wang et al. 2004, written out: Gaussian window of 11, deviation 1.5, K1 0.01, K2 0.03."""
    means = []
    for x, y in zip(np.moveaxis(a, 2, 0), np.moveaxis(b, 2, 0), strict=True):

        def smooth(z):
            weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
            weights /= weights.sum()
            return scipy.ndimage.correlate(z, np.outer(weights, weights))[5:-5, 5:-5]

        mx, my = smooth(x), smooth(y)
        vx, vy, vxy = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
        top = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4)
        means.append((top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean())
    return np.mean(means)


@pytest.mark.evaluation
def test_ssim_is_that_of_its_authors():
    pytest.importorskip("skimage", reason="needs the extra [evaluation]")
    rng = np.random.default_rng(0)
    a = scipy.ndimage.gaussian_filter(rng.random((40, 50, 3)), (2, 2, 0))
    b = np.clip(a + rng.normal(0, 0.05, a.shape), 0, 1)
    assert measure_ssim(a, a) == pytest.approx(1, abs=1e-12)
    assert measure_ssim(a, b) == pytest.approx(plain_ssim(a, b), abs=1e-10)
    assert 0.1 < measure_ssim(a, b) < 0.9
    with pytest.raises(UserError, match="too small for SSIM"):
        measure_ssim(a[:10], b[:10])


def test_the_edited_picture_is_brought_to_the_others_size():
    measure = next(one for one in PIXEL_MEASURES if one.name == "l1")
    large, small = picture("a", (96, 64)), picture("a", (96, 64)).resize((48, 32))
    assert measure.compare(large, small) < 0.02
    assert measure.compare(small, large) == pytest.approx(
        np.abs(np.asarray(small.resize((96, 64), 1), float) - np.asarray(large, float)).mean()
        / 255,
        abs=1e-12,
    )


def finder(folder, samples):
    return find_pictures(folder, [sample.id for sample in samples], "fullset").get


def test_target_and_source_are_columns_of_their_own(tmp_path):
    """Of a method that gives back the source: infinitely near to it, far from the target."""
    samples = toy_samples(2, ("color_alter", "ps_human"), ("en",))
    for sample in samples:
        place = tmp_path / "lazy" / "fullset" / sample.id.task / "en"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{sample.id.key}.png").write_bytes(sample.pictures["input_image"]())
    columns = {"target": "input_image_raw", "source": "input_image"}
    measured = measure_samples(samples, finder(tmp_path / "lazy", samples), columns, SIMPLE)
    rows = {row.column: row for row in average_measures("lazy", measured, "tasks")}
    assert list(rows) == [
        "target_l1", "target_l2", "target_psnr", "source_l1", "source_l2", "source_psnr",
    ]  # fmt: skip
    assert rows["source_l1"].average == 0
    assert rows["target_l1"].average > 0
    assert (rows["source_psnr"].average, rows["source_psnr"].identical) == (None, 4)
    counts = {"lazy": {"measured": 4, "missing": 0, "unreadable": 0}}
    text = reference_to_markdown(list(rows.values()), counts)
    assert "## EN against the target" in text
    assert "| lazy | 0.000 | 0.000 | – |" in text
    assert "4 of 4 pictures are equal to the source, pixel by pixel" in text
    assert "nan" not in text.lower()
    assert "inf |" not in text


def test_what_is_missing_and_unreadable_is_counted_apart(tmp_path):
    samples = toy_samples(2, ("color_alter", "ps_human"), ("en",))
    folder = write_results(tmp_path / "a", samples)
    files = sorted(folder.rglob("*.png"))
    files[0].unlink()
    files[1].write_bytes(b"no")
    measured = measure_samples(samples, finder(folder, samples), {"target": "input_image"}, SIMPLE)
    assert sorted(one.status for one in measured) == [
        "measured", "measured", "missing", "unreadable",
    ]  # fmt: skip
    (row, *_) = average_measures("a", measured, "tasks")
    # both of one task: that has no mean, and so there is no average
    assert row.average is None
    assert sorted(row.tasks.values(), key=lambda x: x is None)[1] is None
    assert (row.samples, row.identical) == (2, 0)
    text = reference_to_markdown([row], {"a": {"measured": 2, "missing": 1, "unreadable": 1}})
    assert "| a | 2 | 1 | 1 |" in text
    assert "for color_alter has none" in text


def test_averages_are_over_tasks_or_over_samples():
    def one(task, key, value):
        return Measured(SampleId(task, "", key), "measured", {"target_l1": value})

    measured = [one("a", "1", 0.0), one("a", "2", 0.3), one("a", "3", 0.6), one("b", "4", 0.9)]
    (by_task,) = average_measures("m", measured, "tasks")
    (by_sample,) = average_measures("m", measured, "samples")
    assert by_task.average == pytest.approx(0.6, abs=1e-15)
    assert by_sample.average == pytest.approx(0.45, abs=1e-15)
    assert by_task.tasks == by_sample.tasks == {"a": pytest.approx(0.3), "b": 0.9}


class Words:
    """A measure of a text: how many words it has."""

    name = "words"

    def measure(self, image, text):
        assert isinstance(image, Image.Image)
        return len(text.split())


def test_texts_come_from_the_caption(tmp_path):
    import dataclasses

    samples = toy_samples(1, ("color_alter",), ("en",))
    folder = write_results(tmp_path / "a", samples)
    with_text = [dataclasses.replace(one, extra={"about": "a red disc"}) for one in samples]
    settings = [finder(folder, samples), {}, [], [Words()]]
    (measured,) = measure_samples(with_text, *settings, caption="about")
    assert measured.values == {"words": 3}
    with pytest.raises(UserError, match="no text in the column other"):
        measure_samples(with_text, *settings, caption="other")


def test_numbers_go_into_json(tmp_path):
    import dataclasses

    measured = [Measured(SampleId("a", "", "1"), "measured", {"source_psnr": math.inf})]
    (row,) = average_measures("m", measured, "tasks")
    assert json.loads(json.dumps(dataclasses.asdict(row), allow_nan=False))["average"] is None
