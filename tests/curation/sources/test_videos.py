"""Frames of videos, alone and in pairs."""

import numpy as np
import pytest

from step1x_jax.curation.sources.videos import VideoFrames
from step1x_jax.errors import UserError
from tests.curation.sources.reading import parts_of, rows_of
from tests.curation.tiny_edits import as_pixels

pytestmark = pytest.mark.curation

RATE, FRAMES = 10, 45  # frames a second, and of a video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos whose frames are brighter from one to the next, and one that is none."""
    import cv2

    path = tmp_path_factory.mktemp("videos")
    (path / "sub").mkdir()
    for name, red in (("a.avi", 0), ("sub/b.avi", 200)):
        kind = cv2.VideoWriter_fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(path / name), kind, RATE, (64, 48))
        for number in range(FRAMES):
            frame = np.full((48, 64, 3), 5 * number, np.uint8)
            frame[..., 2] = red  # OpenCV has blue first
            writer.write(frame)
        writer.release()
    (path / "c.mp4").write_bytes(b"no video")
    return path


def level(data):
    """Mean of the second channel: 5 times the number of the frame, about."""
    return as_pixels(data)[..., 1].mean() / 5


def test_frames_at_equal_distances(folder):
    (first, none, second) = parts_of(VideoFrames(str(folder), every=1.0, licence="CC0"))
    assert [row for _, row in none] == ["unreadable_video"]
    assert [row["name"] for _, row in first] == [f"a.avi {i}.000 s" for i in range(5)]
    assert [round(level(row["picture"])) for _, row in first] == [0, 10, 20, 30, 40]
    assert {row["group"] for _, row in first} == {"a.avi"}
    assert {row["licence"] for _, row in first + second} == {"CC0"}
    reds = (
        as_pixels(second[0][1]["picture"])[..., 0].mean(),
        as_pixels(first[0][1]["picture"])[..., 0].mean(),
    )
    assert reds[0] > 150
    assert reds[1] < 60
    assert len({id for id, _ in first + second}) == 10
    assert "later" not in first[0][1]


def test_pairs(folder):
    rows = rows_of(VideoFrames(str(folder / "a.avi"), every=1.0, later=0.3))
    assert [round(level(row["picture"])) for row in rows] == [0, 10, 20, 30, 40]
    assert [round(level(row["later"])) for row in rows] == [3, 13, 23, 33, 43]
    late = rows_of(VideoFrames(str(folder / "a.avi"), every=1.0, later=1.5))  # over the next one
    assert [round(level(row["later"])) for row in late] == [15, 25, 35]


def test_so_many_frames(folder):
    rows = rows_of(VideoFrames(str(folder / "a.avi"), every=0.1, later=0.5, most=3))
    assert [round(level(row["later"])) for row in rows] == [5, 6, 7]


@pytest.mark.parametrize("change", [{"every": 0.0}, {"later": -1.0}, {"most": 0}])
def test_settings_that_cannot_be(change):
    with pytest.raises(UserError, match=next(iter(change))):
        VideoFrames("x", **change).validate()
