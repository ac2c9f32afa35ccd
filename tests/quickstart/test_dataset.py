import json

import numpy as np
import pytest
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.quickstart import dataset
from step1x_jax.quickstart.edits import KINDS

SETTINGS = dataset.Settings(crops=3, size=32)
pytestmark = pytest.mark.quickstart


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "pictures"
    assert list(dataset.write(folder, SETTINGS)) == list(range(1, 12))  # 3 and 2 x 4 crops
    return folder


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def read(path):
    return np.asarray(Image.open(path))


def test_targets_are_the_edited_sources(folder):
    rows = rows_of(folder, "triplets.jsonl")
    assert len(rows) == 3 * len(KINDS)
    for row in rows:
        kind = KINDS[row["kind"]]
        source, target = read(folder / row["source"]), read(folder / row["target"])
        assert source.shape == (32, 32, 3)
        np.testing.assert_array_equal(target, kind.apply(source))
        assert row["task"] == kind.task
        phrasings = {"en": kind.english, "cn": kind.chinese}[row["language"]]
        assert row["instruction"] in phrasings
    assert len({row["id"] for row in rows}) == len(rows)


def test_held_out_edits(folder):
    rows = dataset.read_held_out(folder)
    assert len(rows) == 8 * len(KINDS)
    assert {row["image"].split("_")[0] for row in rows} == {"chelsea", "china"}
    for kind in KINDS:
        languages = [row["language"] for row in rows if row["kind"] == kind]
        assert sorted(languages) == ["cn"] * 4 + ["en"] * 4
    kind = KINDS[rows[-1]["kind"]]
    np.testing.assert_array_equal(read(rows[-1]["target"]), kind.apply(read(rows[-1]["source"])))


def test_same_settings_give_the_same_files(folder, tmp_path):
    list(dataset.write(tmp_path / "again", SETTINGS))
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 3 + 11 * (1 + len(KINDS))
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_what_is_there_is_kept(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert list(dataset.write(folder, SETTINGS)) == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_settings_are_refused(folder):
    with pytest.raises(UserError, match="not made with these settings"):
        list(dataset.write(folder, dataset.Settings(crops=4, size=32)))


def test_interrupted_and_started_again(folder, tmp_path):
    interrupted = dataset.write(tmp_path / "pictures", SETTINGS)
    next(interrupted)
    interrupted.close()
    assert not (tmp_path / "pictures").exists()
    list(dataset.write(tmp_path / "pictures", SETTINGS))
    name = "triplets.jsonl"
    assert (tmp_path / "pictures" / name).read_text() == (folder / name).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_an_unwritable_place_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        list(dataset.write(tmp_path / "file" / "pictures", SETTINGS))


def test_no_data_set_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="quickstart_data"):
        dataset.read_held_out(tmp_path)
