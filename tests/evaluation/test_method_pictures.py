"""Where a method's pictures lie, and which of them are there."""

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.method_pictures import (
    find_pictures,
    look_at_pictures,
    method_folder,
    picture_path,
)
from step1x_jax.evaluation.samples import SampleId
from tests.evaluation.toy import picture, toy_samples, write_results

SAMPLE = SampleId("ps_human", "cn", "0123.4")


def test_places(tmp_path):
    folder = method_folder(str(tmp_path), "mine")
    place = tmp_path / "mine/fullset/ps_human/cn/0123.4.png"
    assert picture_path(folder, SAMPLE, "fullset") == place
    assert picture_path(folder, SAMPLE, "flat") == tmp_path / "mine/0123.4.png"


@pytest.mark.parametrize("name", ["pairs", "", "..", "a/b", ".a", "a\n"])
def test_names_of_methods(tmp_path, name):
    with pytest.raises(UserError, match=r"name is .*no name of a file|can be called pairs"):
        method_folder(str(tmp_path), name)


def test_readable_missing_and_unreadable_are_told_apart(tmp_path):
    samples = toy_samples(1)
    ids = [sample.id for sample in samples]
    write_results(tmp_path, samples[4:])
    whole = picture_path(tmp_path, ids[4], "fullset").read_bytes()
    picture_path(tmp_path, ids[5], "fullset").write_bytes(whole[: len(whole) // 2])
    picture_path(tmp_path, ids[6], "fullset").write_bytes(b"")
    picture_path(tmp_path, ids[7], "fullset").write_text("an error page")
    told = []
    found = look_at_pictures(tmp_path, ids, "fullset", lambda: told.append(1))
    assert [found[one].status for one in ids] == (
        ["missing"] * 4 + ["readable"] + ["unreadable"] * 3 + ["readable"] * (len(ids) - 8)
    )
    assert found[ids[0]].path is None
    assert ids[7].key in found[ids[7]].reason
    assert len(told) == len(ids)
    assert {one.status for one in look_at_pictures(tmp_path / "no", ids, "flat").values()} == {
        "missing"
    }


@pytest.mark.parametrize("layout", ["fullset", "flat"])
def test_pictures_of_others_may_have_any_ending_and_company(tmp_path, layout):
    place = picture_path(tmp_path, SAMPLE, layout).parent
    place.mkdir(parents=True, exist_ok=True)
    for name in ("0123.4_SRCIMG.png", "0123.png", "0123.4.png.png", ".0123.4.png"):
        picture(name).save(place / name)
    (place / "0123.4.json").write_text("{}")
    (place / "0123.4.txt").write_text("")
    assert find_pictures(tmp_path, [SAMPLE], layout) == {SAMPLE: None}
    picture("a").save(place / "0123.4.JPG", "JPEG")
    assert find_pictures(tmp_path, [SAMPLE], layout) == {SAMPLE: place / "0123.4.JPG"}
    assert look_at_pictures(tmp_path, [SAMPLE], layout)[SAMPLE].status == "readable"
    picture("b").save(place / "0123.4.webp")
    with pytest.raises(UserError, match=r"has 0123\.4\.JPG, 0123\.4\.webp: which one counts"):
        find_pictures(tmp_path, [SAMPLE], layout)
