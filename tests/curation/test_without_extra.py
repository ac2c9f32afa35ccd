"""Without OpenCV the tests that need it are skipped, each with its reason: none vanishes."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EMBEDDED = ROOT / "tests/curation/embedded"
CODE = """
import sys
import pytest
sys.modules["cv2"] = None  # importing it fails
sys.exit(pytest.main(["-q", "-rs", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_every_module_says_what_it_needs():
    """Some cannot be imported without it, others (of videos) can."""
    videos = "tests/curation/sources/test_videos.py"
    command = [sys.executable, "-c", CODE, "tests/curation/embedded", videos]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = re.findall(r"SKIPPED \[\d+\] (\S+?):\d+: needs the extra \[curation\]", done.stdout)
    modules = [path.relative_to(ROOT).as_posix() for path in EMBEDDED.glob("test_*.py")]
    assert sorted(skipped) == sorted([*modules, "tests/curation/conftest.py"])
    assert "passed" not in done.stdout
