"""Tests marked `curation` are skipped, with a reason, where a package of that extra is missing."""

import importlib.util

import pytest

PACKAGES = ("cv2", "matplotlib", "pyarrow", "ray", "skimage", "sklearn")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def pytest_runtest_setup(item):
    """Before any fixture, which may need the packages, too."""
    if MISSING and item.get_closest_marker("curation"):
        pytest.skip(f"needs the extra [curation]; missing: {', '.join(MISSING)}")
