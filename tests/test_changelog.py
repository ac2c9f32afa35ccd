"""launch/guides/changelog.md is of this version, and says what it reads and writes."""

import contextlib
import json
import re
from pathlib import Path

import pytest

import step1x_jax
from step1x_jax.conditioning import cache
from step1x_jax.curation.engine import driver
from step1x_jax.data import manifest, records
from step1x_jax.errors import UserError
from step1x_jax.weights.run import description

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "launch/guides/changelog.md").read_text()
# A checkpoint of each version that is read; tests/weights/run/test_stored.py reads them.
STORED = [path.name for path in (ROOT / "tests/weights/run/stored").glob("*.tar.xz")]
# File -> the version that is written, those that are read (None: tried below).
CODE = {
    "checkpoint": (description.SCHEMA_VERSION, {int(name.split("_")[1][0]) for name in STORED}),
    "data set": (manifest.VERSION, None),
    "record": (records.SCHEMA_VERSION, {records.SCHEMA_VERSION}),
    "embedding": (cache.VERSION, {cache.VERSION}),
    "curation": (driver.VERSION, set()),
}


def numbers(cell):
    return {int(number) for number in re.findall(r"\d+", cell)}


def rows(title):
    """First word or two of each row under a heading's first table, with its cells."""
    table = TEXT.split(title)[1].split("\n\n")
    for line in next(part for part in table if part.startswith("|")).splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_first_entry_is_this_version():
    versions = re.findall(r"^## (\d\S*)$", TEXT, re.MULTILINE)
    assert versions[0] == step1x_jax.__version__
    assert versions == sorted(versions, reverse=True)
    assert f"What {step1x_jax.__version__} does with files" in TEXT


def read_manifests(folder):
    """Versions of a data set without shards that are read."""
    found = set()
    for version in range(1, 10):
        path = folder / f"{version}.json"
        values = {"version": version, "settings": {}, "shards": [], "bad_rows": []}
        path.write_text(json.dumps(values))
        with contextlib.suppress(UserError):
            manifest.read_manifest(path)
            found.add(version)
    return found


@pytest.mark.parametrize("kind", CODE)
def test_versions_of_files(kind, tmp_path):
    (row,) = (row for row in rows("carry a version;") if row[0].startswith(kind))
    writes, reads = CODE[kind]
    reads = read_manifests(tmp_path) if reads is None else reads
    assert numbers(row[2]) == {writes}
    assert numbers(row[3]) == reads
    assert not reads or max(reads) == writes


@pytest.mark.parametrize("kind", ["checkpoint", "data set", "embedding"])
def test_what_came_with_each_number(kind):
    found = [int(row[1]) for row in rows("What came with each number:") if row[0] == kind]
    assert found[-1] == CODE[kind][0]
    assert found == [*range(found[0], found[-1] + 1)]


def test_no_other_kind_of_file_has_a_version():
    sources = [path.read_text() for path in (ROOT / "step1x_jax").rglob("*.py")]
    found = [re.findall(r"^(?:SCHEMA_)?VERSION = \d+", text, re.MULTILINE) for text in sources]
    assert sum(map(len, found)) == len(CODE) == len([*rows("carry a version;")])
