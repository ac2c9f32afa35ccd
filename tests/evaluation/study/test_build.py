"""The folder that participants get: what it shows, and what it does not tell."""

import dataclasses
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from step1x_jax.errors import UserError
from step1x_jax.evaluation.study.build import LONG_SIDE, build_study
from step1x_jax.evaluation.study.key import read_key
from tests.evaluation.toy import picture, toy_samples, write_results

TASKS = ("color_alter", "text_change")


def page_data(path):
    """What a page's script is given."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def finder(folder):
    def find(id):
        path = folder / "fullset" / id.task / id.language / f"{id.key}.png"
        return path if path.exists() else None

    return find


class Place:
    """Two methods' pictures of four samples, and where a study of them goes."""

    def __init__(self, tmp_path):
        self.samples = toy_samples(2, TASKS, ("en",))
        self.results, self.folder, self.key = (
            tmp_path / "results", tmp_path / "study", tmp_path / "key.json",
        )  # fmt: skip
        for method in ("secretive", "reclusive"):
            write_results(self.results / method, self.samples, method)

    def build(self, methods=("secretive", "reclusive"), samples=None, **changed):
        settings = {
            "benchmark": "gedit", "source": "input_image", "participants": 3, "each": 2,
            "seed": bytes(32),
        }  # fmt: skip
        return build_study(
            self.samples if samples is None else samples,
            {method: finder(self.results / method) for method in methods},
            self.folder,
            self.key,
            **settings | changed,
        )


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_page_shows_what_its_participant_was_dealt(place):
    key = place.build()
    assert read_key(place.key) == key
    assert sorted(path.name for path in place.folder.glob("*.html")) == [
        "p01.html", "p02.html", "p03.html",
    ]  # fmt: skip
    by_id = {sample.id: sample for sample in place.samples}
    for participant, names in key.participants.items():
        data = page_data(place.folder / f"{participant}.html")
        assert (data["study"], data["participant"]) == (key.study, participant)
        assert [sample["id"] for sample in data["samples"]] == names
        for shown in data["samples"]:
            behind = key.samples[shown["id"]]
            assert shown["instruction"] == by_id[behind.id].instruction
            assert behind.intersection == by_id[behind.id].intersection
            assert {p["id"] for p in shown["pictures"]} == set(behind.pictures)
            assert sorted(behind.pictures.values()) == ["reclusive", "secretive"]
            # each name leads to the picture of its method: the nearest of all of them
            for one in shown["pictures"]:
                file = place.folder / one["file"]
                expected = finder(place.results / behind.pictures[one["id"]])(behind.id)
                assert file_distance(file, expected) < 6  # JPEG, and a resize there and back
            assert file_distance(place.folder / shown["source"], by_id[behind.id].pictures) < 6


def file_distance(file, expected):
    """Mean difference in levels, at the toy pictures' own size."""
    if isinstance(expected, dict):
        expected = io.BytesIO(expected["input_image"]())
    with Image.open(file) as one, Image.open(expected) as other:
        small = one.resize(other.size, Image.Resampling.BOX)
        return np.abs(np.asarray(small, float) - np.asarray(other.convert("RGB"), float)).mean()


def test_the_folder_does_not_tell_who_made_what(place):
    key = place.build()
    files = [path for path in place.folder.rglob("*") if path.is_file()]
    assert len({os.stat(path).st_mtime for path in files}) == 1
    words = {"secretive", "reclusive", key.secret} | {sample.id.key for sample in place.samples}
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".html":
            # the instructions of the toy benchmark name tasks, but no key and no method
            assert not [word for word in words if word.encode() in content]
        assert not [word for word in words if word in path.name]
    names = {path.stem for path in files if path.suffix == ".jpg"}
    assert len(names) == 4 * 3
    assert all(re.fullmatch("[0-9a-f]{24}", name) for name in names)
    # another secret changes every name
    place.folder, place.key = place.folder.with_name("b"), place.key.with_name("b.json")
    place.build(seed=b"1" * 32)
    assert not names & {path.stem for path in place.folder.rglob("*.jpg")}


def test_the_order_of_methods_is_no_hint(place):
    place.samples = toy_samples(10, TASKS, ("en",))
    for method in ("secretive", "reclusive"):
        write_results(place.results / method, place.samples, method)
    key = place.build(participants=4, each=0)
    firsts = []
    for participant in key.participants:
        for shown in page_data(place.folder / f"{participant}.html")["samples"]:
            firsts.append(key.samples[shown["id"]].pictures[shown["pictures"][0]["id"]])
    # 80 fair coins: 40 +- 4.5
    assert 20 < firsts.count("reclusive") < 60


def test_sizes_are_equal_and_nothing_else_is_in_the_files(place, tmp_path):
    sample = place.samples[0]
    note = PngImagePlugin.PngInfo()
    note.add_text("method", "secretive")
    exif = Image.Exif()
    exif[271] = "secretive camera"
    path = finder(place.results / "secretive")(sample.id)
    picture("large", (400, 300)).save(path, pnginfo=note, exif=exif)
    square = finder(place.results / "reclusive")(sample.id)
    Image.new("RGB", (64, 64), "red").save(square)
    key = place.build()
    for shown in key.samples:
        for data in map(page_data, place.folder.glob("*.html")):
            for one in data["samples"]:
                if one["id"] != shown:
                    continue
                for file in (one["source"], *(p["file"] for p in one["pictures"])):
                    with Image.open(place.folder / file) as image:
                        assert image.size == (one["width"], one["height"]) == (LONG_SIDE, 768)
                        assert not image.getexif()
                        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit",
                                                   "jfif_density"}  # fmt: skip
                    assert b"secretive" not in (place.folder / file).read_bytes()
    behind = next(s for s in key.samples.values() if s.id == sample.id)
    name = next(name for name, method in behind.pictures.items() if method == "reclusive")
    with Image.open(place.folder / "pictures" / f"{name}.jpg") as image:
        # whole, not stretched: 768 of 1024 columns
        assert image.getpixel((60, 384)) == (128, 128, 128)
        assert np.abs(np.subtract(image.getpixel((512, 384)), (254, 0, 0))).max() <= 2


def test_samples_that_a_method_lacks_are_counted_and_left_out(place):
    first, second, *rest = place.samples
    finder(place.results / "reclusive")(first.id).unlink()
    finder(place.results / "secretive")(second.id).write_bytes(b"no picture")
    key = place.build(participants=1, each=0)
    assert {sample.id for sample in key.samples.values()} == {sample.id for sample in rest}
    assert key.left_out == {"secretive": 1, "reclusive": 1}


def test_text_of_strangers_stays_text(place):
    (sample, *_) = place.samples
    evil = '</script><script>alert("&")</script><!-- \u2028'
    key = place.build(
        samples=[dataclasses.replace(sample, instruction=evil)], participants=1, each=0
    )
    text = (place.folder / "p01.html").read_text()
    assert "alert(" not in text.replace("\\u003cscript\\u003ealert(", "")
    assert page_data(place.folder / "p01.html")["samples"][0]["instruction"] == evil
    assert len(key.samples) == 1


@pytest.mark.parametrize("inside", ["key.json", "pictures/key.json", "../study/key.json", "."])
def test_the_key_may_not_lie_in_the_folder(place, inside):
    place.key = place.folder / inside
    with pytest.raises(UserError, match="participants get; put it elsewhere"):
        place.build()
    assert not place.folder.exists()


def test_a_link_does_not_hide_the_folder(place, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    place.key = tmp_path / "link" / "study" / "key.json"
    with pytest.raises(UserError, match="put it elsewhere"):
        place.build()


def test_nothing_is_overwritten_and_nothing_is_left(place):
    with pytest.raises(UserError, match=r"input_image_raw.*--source"):
        place.build(source="input")
    with pytest.raises(UserError, match="no sample has pictures of all of secretive, absent"):
        place.build(methods=("secretive", "absent"))
    with pytest.raises(UserError, match="leave some of 4 samples unrated"):
        place.build(participants=1, each=2)
    with pytest.raises(UserError, match="--methods"):
        place.build(methods=())
    assert not place.folder.exists()
    assert not place.key.exists()
    place.key.write_text("{}")
    with pytest.raises(UserError, match=r"--key=.* is there already"):
        place.build()
    place.key.unlink()
    place.folder.mkdir()
    with pytest.raises(UserError, match=r"--output=.* is there already"):
        place.build()
