"""Runs a command that prints a result as JSON, and records it in launch/benchmarks/.

    python -m tests.record_result plan_v5p_2x2x1 python -m launch.compile_ahead \\
        --config=configs/finetune_1024.py --topology=v5p:2x2x1 --json

The file says first what made it: the command, the commit, the versions of PACKAGES, the date. What
is not committed yet cannot be recorded. Then `python -m tests.recorded_results` writes the pages.
"""

import datetime
import importlib.metadata
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.recorded_results import ROOT
from tests.result_tables import FOLDER

FIELDS = ("command", "commit", "versions", "date")  # in this order, before all others
PACKAGES = ("jax", "libtpu", "jax-cuda13-plugin")  # those of them that are installed


def record(name: str, words: Sequence[str]) -> None:
    """Runs a command, whose first word is `python`, and writes NAME.json."""
    if git("status", "--porcelain", "--untracked-files=no"):
        sys.exit("Commit first: a result belongs to a commit.")
    commit = git("rev-parse", "--short=7", "HEAD")
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    made = (shlex.join(words), commit, versions(), datetime.date.today().isoformat())
    found = dict(zip(FIELDS, made, strict=True)) | json.loads(done.stdout)
    (FOLDER / f"{name}.json").write_text(as_text(found))


def as_text(result: dict[str, Any]) -> str:
    """As all of them are stored."""
    return json.dumps(result, indent=1) + "\n"


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git(*words: str) -> str:
    return subprocess.check_output(["git", *words], cwd=ROOT, text=True).strip()


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2:])
