"""Names that are unique in the package, read from the sources."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("step1x_jax", "launch", "configs")


def defined_classes():
    """Public class -> the files that define it at top level."""
    files = defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    files[node.name].append(str(path.relative_to(ROOT)))
    return files


def test_each_public_class_name_is_defined_in_one_file():
    """One name has one meaning: imports and searches are then unambiguous."""
    files = defined_classes()
    assert len(files) > 300  # they were found
    assert {name: places for name, places in files.items() if len(places) > 1} == {}
