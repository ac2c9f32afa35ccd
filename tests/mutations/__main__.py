"""Breaks the package on purpose, in one place at a time, and asks the quick tests to notice.

    python -m tests.mutations [--check] [--file FILE ...] [NAME ...]

Each mutation of tests/mutations/table/ (all, those of a file, or those named) is made in a
temporary copy of the tree. The tests named beside it run first (before that, once without any), the
slow ones after the others, then, if these pass, all quick ones. One row of a Markdown table is
printed per mutation: its name, the first test that failed, seconds. The exit code is 1 if one
survives, or if one does not fit the code; --check looks only for that.

Tests WITH_EXTRAS need the extras torch, diffusers and curation, and are run all the same; where one
is missing, their mutations are left out, which is printed.
"""

import argparse
import ast
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter

from tests.mutations.suites import HOPPER, WITH_EXTRAS
from tests.mutations.table import Mutation, read_mutations
from tests.mutations.tree import DoesNotFit, find, replaced

ROOT = pathlib.Path(__file__).parents[2]
EXTRAS = "torch or quickstart or parquet or gcs or demo or evaluation or deidentify or curation"
LIBRARIES = ("torch", "diffusers", "cv2", "pyarrow", "skimage")  # that WITH_EXTRAS need
SECOND_LANE = ROOT / ".venv-3.12/bin/python"  # of launch/test.sh --all, for HOPPER alone
NO_TESTS = 5  # pytest's exit code if all were deselected
TIMEOUT = 1800  # seconds; code that hangs is noticed, too


def problems(mutations: list[Mutation], root: pathlib.Path = ROOT) -> list[str]:
    """What is wrong with the table itself."""
    names = Counter(mutation.name for mutation in mutations)
    found = [
        f"{name}: {count} mutations of this name" for name, count in names.items() if count > 1
    ]
    trees = {
        file: ast.parse((root / file).read_text())
        for file in {mutation.file for mutation in mutations}
        if (root / file).is_file()
    }
    for m in mutations:
        try:
            if m.file not in trees:
                raise DoesNotFit("there is no such file")
            find(trees[m.file], *m[3:])
        except DoesNotFit as e:
            found.append(f"{m.name}: {m.file}: {e}")
        for test in m.tests.split():
            if not (root / test.split("::")[0]).exists():
                found.append(f"{m.name}: there is no {test}")
    return found


def first_failure(root: pathlib.Path, *tests: str, slow: bool = False) -> str | None:
    """Return the first test that fails, of these or all, of the slow or the quick ones; or None."""
    python = str(SECOND_LANE) if tests == (HOPPER,) else sys.executable
    marks = "slow" if slow else "not slow"
    if not (tests and all(test.startswith(WITH_EXTRAS) for test in tests)):
        marks += f" and not ({EXTRAS})"
    command = [python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marks]
    command.append("--ignore=tests/test_mutations.py")  # which any mutation fails
    environment = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=root,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return "(hangs)"
    if done.returncode in (0, NO_TESTS):
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:  # the code cannot be imported
        raise RuntimeError(f"pytest {' '.join(tests)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1]


def caught_by(mutation: Mutation, root: pathlib.Path) -> str | None:
    """The test that notices a mutation of the tree at `root`, which is as before afterwards."""
    path = root / mutation.file
    text = path.read_text()
    path.write_text(replaced(text, *mutation[3:]))
    try:
        tests = mutation.tests.split()
        named = first_failure(root, *tests) or first_failure(root, *tests, slow=True)
        return named or first_failure(root)
    finally:
        path.write_text(text)


def run(chosen: list[Mutation], root: pathlib.Path) -> int:
    """Makes mutations in a copy of the tree; prints the table and the number of survivors."""
    named = {test for mutation in chosen for test in mutation.tests.split()}
    if HOPPER in named and not SECOND_LANE.exists():
        print(f"skipped: what {HOPPER} notices, because {SECOND_LANE} is not here")
        chosen = [mutation for mutation in chosen if mutation.tests != HOPPER]
        named.remove(HOPPER)
    with_extras = {test for test in named if test.startswith(WITH_EXTRAS)}
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if with_extras and missing:
        print(f"skipped: what needs {', '.join(missing)} to be noticed")
        chosen = [one for one in chosen if not one.tests.startswith(WITH_EXTRAS)]
        named -= with_extras
        with_extras = set()
    for tests in map(sorted, (named - with_extras - {HOPPER}, with_extras, named & {HOPPER})):
        if tests and (failing := first_failure(root, *tests)):
            print(f"{failing} fails without any mutation.")
            return 1
    survivors = 0
    print("| mutation | file | caught by | seconds |\n|---|---|---|---|", flush=True)
    for mutation in chosen:
        start = time.monotonic()
        test = caught_by(mutation, root)
        survivors += test is None
        seconds = f"{time.monotonic() - start:.0f}"
        row = mutation.name, mutation.file, test or "**nothing**", seconds
        print(f"| {' | '.join(row)} |", flush=True)
    print(f"\n{survivors} survivors.")
    return int(survivors > 0)


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("python -m tests.mutations")
    parser.add_argument("--check", action="store_true", help="only whether all fit the code")
    parser.add_argument("--file", action="append", default=[], help="those of a file; repeatable")
    parser.add_argument("names", nargs="*", metavar="NAME", help="those of this name")
    options = parser.parse_args(arguments)

    mutations = read_mutations()
    wrong = problems(mutations)
    wrong += [
        f"{one}: no such mutation"
        for one in [*options.names, *options.file]
        if not any(one in (mutation.name, mutation.file) for mutation in mutations)
    ]
    if wrong or options.check:
        print("\n".join(wrong or [f"{len(mutations)} mutations fit the code."]))
        return int(bool(wrong))

    everything = not options.names and not options.file
    chosen = [
        one
        for one in mutations
        if everything or one.name in options.names or one.file in options.file
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "tree"
        left_out = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, root, ignore=left_out)
        return run(chosen, root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
