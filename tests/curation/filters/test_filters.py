"""Every filter against planted defects, and against rows without any."""

import numpy as np
import pytest
from PIL import Image

from step1x_jax.curation.filters.change import LeakFilter, UnchangedFilter
from step1x_jax.curation.filters.decontamination import BenchmarkFilter, hash_pictures
from step1x_jax.curation.filters.duplicates import DuplicateIndex, hash_edit
from step1x_jax.curation.filters.language import check_languages, quotations
from step1x_jax.curation.filters.size import SizeFilter
from step1x_jax.curation.filters.template_share import find_excess
from step1x_jax.errors import UserError
from tests.curation.filters.rows import edit, encode, picture, row_of


def new_edits():
    """A filter that remembers the edits that passed it."""
    index = DuplicateIndex()
    return lambda row: index.add(hash_edit(row))


def test_a_good_row_passes_all():
    row = row_of(*edit(0))
    benchmark = BenchmarkFilter(hash_pictures([picture(seed) for seed in range(100, 120)]))
    for check in (SizeFilter(), UnchangedFilter(), LeakFilter(), new_edits(), benchmark):
        assert check(row) is None, check
    assert check_languages(row) is None


def test_sizes():
    small = picture(0, (191, 320))
    assert SizeFilter()(row_of(small, small)) == "too_small"
    assert SizeFilter(least_side=100)(row_of(small, small)) is None
    long = picture(0, (200, 601))
    assert SizeFilter()(row_of(long, long)) == "too_long"
    assert SizeFilter()(row_of(picture(0), picture(0, (320, 240)))) == "sizes_differ"
    broken = row_of(*edit(0)) | {"target": b"no picture"}
    with pytest.raises(UserError, match="target of a is not a readable picture"):
        SizeFilter()(broken)


def test_an_unchanged_pair_is_found():
    source, target, mask = edit(0)
    assert UnchangedFilter()(row_of(source, source, mask)) == "unchanged"
    assert UnchangedFilter()(row_of(source, source)) == "unchanged"
    again = row_of(source, source) | {"target": encode(source, "jpeg", quality=85)}
    assert UnchangedFilter()(again) == "unchanged"  # compression is no edit
    assert UnchangedFilter()(row_of(source, target)) is None
    # A small region counts by itself: over the whole picture the change would be too small.
    tiny = np.zeros_like(mask)
    tiny[100:108, 100:108] = True
    changed = np.where(tiny[..., None], 255 - source, source)
    assert UnchangedFilter()(row_of(source, changed, tiny)) is None
    assert UnchangedFilter()(row_of(source, changed)) == "unchanged"


def test_an_edit_that_leaks_out_of_its_mask_is_found():
    source, target, mask = edit(0)
    leaked = target.copy()
    leaked[0, 0, 1] ^= 1  # one bit of one pixel
    assert LeakFilter()(row_of(source, leaked, mask)) == "changed_outside_mask"
    assert LeakFilter(most=1)(row_of(source, leaked, mask)) is None
    assert LeakFilter()(row_of(source, leaked)) is None  # no mask, no promise
    assert LeakFilter()(row_of(source, target, mask[:100])) == "mask_does_not_fit"
    assert UnchangedFilter()(row_of(source, target, mask[:100])) == "mask_does_not_fit"


@pytest.mark.slow
def test_duplicates_are_found_and_other_edits_are_not():
    check = new_edits()
    source, target, mask = edit(0)
    assert check(row_of(source, target, mask)) is None
    assert check(row_of(source, target, mask)) == "duplicate"
    again = row_of(source, target, mask) | {"target": encode(target, "jpeg", quality=80)}
    assert check(again) == "near_duplicate"
    small = [np.asarray(Image.fromarray(p).resize((240, 180))) for p in (source, target)]
    assert check(row_of(*small, np.asarray(Image.fromarray(mask).resize((240, 180))))) is not None
    assert check(row_of(*edit(0, colour=(20, 20, 250)))) is None  # another colour
    assert check(row_of(*edit(0, place=(60, 110)))) is None  # another place
    assert check(row_of(target, source, mask)) is None  # the other way round
    for seed in range(1, 90):  # more than it has room for at first
        assert check(row_of(*edit(seed))) is None
    assert check(row_of(*edit(80))) == "duplicate"


def test_pictures_of_a_benchmark_are_found():
    benchmark = [picture(seed) for seed in range(10)]
    check = BenchmarkFilter(hash_pictures(benchmark))
    other = picture(50)
    assert check(row_of(other, 255 - other)) is None
    seen = benchmark[3]
    half = np.asarray(Image.fromarray(seen).resize((160, 120)))
    brighter = np.uint8(np.clip(seen.astype(int) + 15, 0, 255))
    for shown in (seen, half, brighter, np.ascontiguousarray(seen[:, ::-1])):
        assert check(row_of(shown, other)) == "benchmark_picture"
        assert check(row_of(other, shown)) == "benchmark_picture"
    compressed = row_of(other, other) | {"source": encode(seen, "jpeg", quality=40)}
    assert check(compressed) == "benchmark_picture"
    assert BenchmarkFilter(hash_pictures([]))(row_of(seen, seen)) is None


@pytest.mark.parametrize(
    ("english", "chinese", "reason"),
    [
        ('Write "OPEN" here', "在这里写“OPEN”", None),
        ("Make it rain", "下雨", None),
        ("Make it rain", "Make it rain", "chinese_has_no_han"),
        ("把天气改成下雨", "把天气改成下雨", "english_has_han"),
        ("Make it 雨", "下雨", "english_has_han"),
        ('Write "OPEN"', "写上“CLOSED”", "quotations_differ"),
        ('Replace "A" with "B"', "把“B”换成“A”", None),  # the order is the language's
        ('Replace "A" with "B"', "把“A”换成新的字", "quotations_differ"),
        ('Write "你好" here', "在这里写「你好」", None),  # what is quoted may be in any language
        ('Write "你好" here', "write “你好”", "chinese_has_no_han"),
        ("Don't change the cat's eyes", "不要改变猫的眼睛", None),  # apostrophes quote nothing
        ("", "下雨", "instruction_missing"),
        ("Make it rain", " ", "instruction_missing"),
        ("Make it rain", None, "instruction_missing"),
    ],
)
def test_languages(english, chinese, reason):
    row = {"instruction_en": english, "instruction_cn": chinese}
    assert check_languages(row) == reason


def test_quotations_in_all_marks():
    assert quotations('"a" “b” 「c」 『d』 "e f"') == ["a", "b", "c", "d", "e f"]


def rows_of(counts):
    return [
        {"id": f"{name}{number}", "template": name}
        for name, count in counts.items()
        for number in range(count)
    ]


def test_a_template_that_is_too_frequent_is_cut_down():
    rows = rows_of({"a": 60, "b": 10, "c": 10, "d": 10, "e": 10})
    excess = find_excess(rows, 0.25)
    assert {name[0] for name in excess} == {"a"}
    left = [r for r in rows if r["id"] not in excess]
    # 13 of 53 are below a quarter, 14 of 54 are not.
    assert sum(r["template"] == "a" for r in left) == 13
    assert find_excess(list(reversed(rows)), 0.25) == excess  # whatever the order
    assert find_excess(left, 0.25) == set()


def test_shares_of_few_rows_say_nothing():
    assert find_excess(rows_of({"a": 15, "b": 1, "c": 1, "d": 1}), 0.25) == set()
    with pytest.raises(ValueError, match="3 templates"):
        find_excess(rows_of({"a": 20, "b": 20, "c": 20}), 0.25)
