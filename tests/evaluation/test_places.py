"""What lies inside of a folder, on a disk and on a store."""

import pytest

from step1x_jax.evaluation.places import is_inside


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [
        ("a/b", "a", True),
        ("a", "a", True),
        ("a/../b", "a", False),
        ("ab", "a", False),
        ("b/../a/c", "a/", True),
        ("gs://x/a/b", "gs://x/a", True),
        ("gs://x/a", "gs://x/a/", True),
        ("gs://x/ab", "gs://x/a", False),
        ("a", "gs://x/a", False),
        ("gs://x/a", "x/a", False),
    ],
)
def test_inside(path, folder, inside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_inside(path, folder) is inside


def test_links_are_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    assert is_inside(tmp_path / "link" / "folder" / "a", tmp_path / "folder")
    (tmp_path / "folder" / "out").symlink_to(tmp_path)
    assert not is_inside(tmp_path / "folder" / "out" / "a", tmp_path / "folder")
