"""Pictures that are replaced, moved or temporarily unreadable; edits that do not fit."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from step1x_jax.data import identity
from step1x_jax.data.buckets import compute_kept_fraction
from step1x_jax.data.manifest import MANIFEST, REJECTED, records_fingerprint, write_dataset
from step1x_jax.data.shards import ShardReader
from step1x_jax.data.sources import UnreadableError, read_picture
from step1x_jax.errors import UserError
from step1x_jax.files import exclusive
from tests.data.examples import make_record
from tests.data.test_precompute import (
    SETTINGS,
    FakeModels,
    contents,
    listed,
    make,
    models,
    read_all,
    rows,
    run,
)

__all__ = ["models", "rows"]  # fixtures


def save(path, shade):
    """Save a BMP, whose size does not depend on its colour."""
    Image.new("RGB", (80, 80), (shade, 0, 0)).save(path)


@pytest.fixture
def bitmaps(tmp_path):
    """Three edits, to be made in chunks of one edit each."""
    for i in range(3):
        save(tmp_path / f"{i}_a.bmp", 10 * i)
        save(tmp_path / f"{i}_b.bmp", 100 + 10 * i)
    return [
        {"source": f"{i}_a.bmp", "target": f"{i}_b.bmp", "instruction": "x", "id": f"e{i}"}
        for i in range(3)
    ]


@pytest.mark.parametrize("times", ["new", "as before"])
def test_a_target_of_the_same_size_is_made_again(tmp_path, bitmaps, models, times):
    first = make(tmp_path, bitmaps, models, chunk_size=1)
    before = contents(tmp_path / "out")
    target = tmp_path / "1_b.bmp"
    status = target.stat()
    save(target, 255)
    if times == "as before":  # as after unpacking an archive
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert target.stat().st_size == status.st_size
    done = len(models.texts)
    second = make(tmp_path, bitmaps, models, chunk_size=1)
    assert len(models.texts) == done + 2  # an instruction and a negative, of one chunk
    found = read_all(tmp_path / "out")["e1"].target
    wanted = models.encode_images(np.asarray(Image.open(target).resize((64, 64)))[None])[0]
    np.testing.assert_array_equal(found, wanted.astype(found.dtype))
    assert records_fingerprint(first) != records_fingerprint(second)
    # the shards named by the previous manifest still exist, for runs that are reading them
    for name, data in before.items():
        if name.endswith(".array_record"):
            assert (tmp_path / "out" / name).read_bytes() == data
    again = make(tmp_path, bitmaps, models, chunk_size=1)
    assert again == second
    assert len(models.texts) == done + 2


def test_moved_and_copied_pictures_are_read_once_and_not_encoded(
    tmp_path, bitmaps, models, monkeypatch
):
    make(tmp_path, bitmaps, models)
    before = contents(tmp_path / "out")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in tmp_path.glob("*.bmp"):
        shutil.copy(path, moved)
    shutil.copytree(tmp_path / "out", moved / "out")
    done = len(models.texts)
    make(moved, bitmaps, models)
    assert len(models.texts) == done
    after = contents(moved / "out")
    assert {n: d for n, d in after.items() if not n.startswith("part") or "array" in n} == {
        n: d for n, d in before.items() if not n.startswith("part") or "array" in n
    }
    monkeypatch.setattr(identity, "read_picture", None)  # the new stamps were stored
    make(moved, bitmaps, models)


def failing(monkeypatch, number):
    """Make reading 1_b.bmp fail with an error of the operating system."""
    read = identity.read_picture

    def read_picture(path):
        if path.endswith("1_b.bmp"):
            try:
                raise OSError(number, os.strerror(number))
            except OSError as e:
                raise UnreadableError(f"{path} cannot be read ({e.strerror})") from e
        return read(path)

    monkeypatch.setattr(identity, "read_picture", read_picture)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_picture_that_could_not_be_read_is_tried_again(
    tmp_path, bitmaps, models, monkeypatch, number
):
    with monkeypatch.context() as patched:
        failing(patched, number)
        manifest = make(tmp_path, bitmaps, models)
        assert manifest.records == 2
        assert os.strerror(number) in manifest.bad_rows[0].reason
        done = len(models.texts)
        assert make(tmp_path, bitmaps, models) == manifest  # still unreadable: not made again
        assert len(models.texts) == done
    manifest = make(tmp_path, bitmaps, models)
    assert manifest.records == 3
    assert not manifest.bad_rows
    assert set(read_all(tmp_path / "out")) == {"e0", "e1", "e2"}


def test_missing_permission_is_distinguished_from_a_missing_picture(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be read") as error:
        read_picture(str(tmp_path / "gone.png"))
    assert not isinstance(error.value, UnreadableError)  # found by its size once it exists
    (tmp_path / "a.png").write_bytes(b"x")

    def no_rights(path):
        raise UserError(f"{path} cannot be read") from PermissionError(errno.EACCES, "no rights")

    assert read_picture(str(tmp_path / "a.png")) == b"x"
    monkeypatch.setattr("step1x_jax.data.sources.read_image_bytes", no_rights)
    with pytest.raises(UnreadableError):
        read_picture(str(tmp_path / "a.png"))


def test_a_folder_of_the_previous_version_is_not_made_again(tmp_path, bitmaps, models):
    """It stores neither the state of pictures nor digests."""
    make(tmp_path, bitmaps, models)
    for path in [*(tmp_path / "out").glob("part-*.json"), tmp_path / "out" / MANIFEST]:
        values = json.loads(path.read_text())
        values.pop("pictures", None)
        values["version"] = 2
        for shard in values["shards"]:
            del shard["digest"], shard["check"]
        path.write_text(json.dumps(values))
    done = len(models.texts)
    manifest = make(tmp_path, bitmaps, models, SETTINGS | {"min_kept": 0.7})
    assert manifest.records == 3
    assert len(models.texts) == done


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ((90, 60), (80, 60), None),  # 3:2 against 4:3
        ((60, 90), (64, 64), "of its target, 64x64 pixels, 60% would be kept in 48x80"),
        ((192, 96), (96, 192), "of its target, 96x192 pixels"),
        ((1000, 100), (1000, 100), "of its source, 1000x100 pixels"),
    ],
)
def test_pairs_whose_crop_keeps_too_little_are_rejected(tmp_path, models, source, target, reason):
    Image.new("RGB", source).save(tmp_path / "a.png")
    Image.new("RGB", target).save(tmp_path / "b.png")
    row = {"source": "a.png", "target": "b.png", "instruction": "x", "id": "e"}
    manifest = make(tmp_path, [row], models, SETTINGS | {"min_kept": 0.7})
    assert manifest.records == (reason is None)
    if reason:
        assert reason in manifest.bad_rows[0].reason
        assert "--min_kept" in manifest.bad_rows[0].reason


def test_compute_kept_fraction():
    assert compute_kept_fraction((60, 40), (96, 64)) == 1
    assert (
        compute_kept_fraction((100, 50), (64, 64))
        == compute_kept_fraction((50, 100), (64, 64))
        == 0.5
    )
    assert compute_kept_fraction((400, 300), (30, 20)) == pytest.approx(8 / 9)


def test_a_list_without_any_picture_is_a_user_error(tmp_path, bitmaps, models):
    make(tmp_path, bitmaps, models)
    before = contents(tmp_path / "out")
    for path in tmp_path.glob("*.bmp"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"none of the pictures that edits.json names exists.*--root"
    ):
        make(tmp_path, bitmaps, models)
    assert contents(tmp_path / "out") == before


def test_two_runs_of_one_process_index_at_once_are_refused(tmp_path, bitmaps, models):
    inputs = [listed(tmp_path, bitmaps)]
    (tmp_path / "out").mkdir()
    with exclusive(tmp_path / "out" / ".process-1.lock", "mine"):
        with pytest.raises(UserError, match=r"another launch\.precompute is at work on this share"):
            run(tmp_path, inputs, models, process_index=1, process_count=2)
        run(tmp_path, inputs, models, process_index=0, process_count=2)
    run(tmp_path, inputs, models, process_index=1, process_count=2)
    assert not list((tmp_path / "out").glob(".*"))


def test_edits_with_nan_in_model_outputs_are_left_out(tmp_path, bitmaps):
    class Broken(FakeModels):
        def encode_images(self, images):
            latents = super().encode_images(images)
            return np.where(latents < -0.99, np.nan, latents)  # of 0_a.bmp, nearly black

    calls = []
    manifest = make(tmp_path, bitmaps, Broken(), on_row=calls.append)
    (bad,) = manifest.bad_rows
    assert bad.row == "edits.json row 1"
    assert "source has numbers that are not finite" in bad.reason
    assert manifest.records == 2
    assert calls.count(None) == 2
    assert len(calls) == 3


def test_files_of_the_user_are_not_replaced(tmp_path, bitmaps, models):
    inputs = [listed(tmp_path, bitmaps)]
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / REJECTED
    mine.write_text('{"source": "a.png"}\n')
    with pytest.raises(UserError, match=r"rejected\.jsonl would be replaced"):
        run(tmp_path, inputs, models)
    mine.rename(tmp_path / "out" / MANIFEST)
    with pytest.raises(UserError, match="if it is a file of your own, give another folder"):
        run(tmp_path, inputs, models)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ['{"source": "a.png"}\n']


def test_an_output_folder_with_brackets_in_its_name(tmp_path, bitmaps, models):
    folder = tmp_path / "[set] *"
    folder.mkdir()
    for path in tmp_path.glob("*.bmp"):
        shutil.copy(path, folder)
    make(folder, bitmaps, models)
    with pytest.raises(UserError, match="was made with size=64"):
        make(folder, bitmaps, models, SETTINGS | {"size": 128})
    manifest = make(folder, bitmaps, models)
    assert len(ShardReader(folder / "out", manifest.shards[0])) == 3


def test_fingerprints_of_the_previous_version_still_match(tmp_path, bitmaps, models):
    """They covered only the ends of a model's files: the first half of the current ones."""
    make(tmp_path, bitmaps, models, SETTINGS | {"encoder": "0123456789abcdef"})
    now = SETTINGS | {"encoder": "0123456789abcdef-fedcba9876543210"}
    assert make(tmp_path, bitmaps, models, now).records == 3
    with pytest.raises(UserError, match="was made with encoder="):
        make(tmp_path, bitmaps, models, SETTINGS | {"encoder": "1123456789abcdef-fedcba9876543210"})


def test_write_dataset_replaces_a_data_set(tmp_path):
    write_dataset(tmp_path, [make_record(0)])
    write_dataset(tmp_path, [make_record(1)])
    assert read_all(tmp_path).keys() == {"1"}
