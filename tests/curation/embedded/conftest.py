"""Embedded edits need OpenCV and the photographs: without the extra none of these tests runs."""

import importlib.util

import pytest

PACKAGES = ("cv2", "skimage", "sklearn", "matplotlib")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


@pytest.fixture(scope="session")
def originals():
    from step1x_jax.curation.embedded.photographs import load_originals

    return load_originals()


@pytest.fixture(scope="session")
def views():
    from step1x_jax.curation.embedded.photographs import load_photographs

    return {view.name: view for view in load_photographs()}
