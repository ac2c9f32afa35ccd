"""Who may import whom: the floors of WORKSPACE.md, read from the imports themselves."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
# From the ground up; rooms on one line do not import each other.
FLOORS = (
    {"bounds", "choices", "errors", "files", "json_files", "overrides"},
    {"kernels"},
    {"parallel"},
    {"models"},
    {"weights"},
    {"conditioning"},
    {"data", "sampling", "asking"},
    {"training", "editing", "evaluation"},
    {"planning", "curation"},
    {"quickstart"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports():
    """Module -> modules of the package that it imports, anywhere in the file."""
    files = [p for p in (ROOT / "step1x_jax").rglob("*.py") if p.name != "__init__.py"]
    graph = {}
    for file in files:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        graph[module] = found = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return {module: found & set(graph) for module, found in graph.items()}


def test_no_file_imports_from_a_floor_above_or_from_its_neighbour():
    for module, found in imports().items():
        room = module.split(".")[1]
        for other in found:
            other_room = other.split(".")[1]
            lower = FLOOR[other_room] < FLOOR[room]
            assert lower or other_room == room or FLOOR[room] == 0, f"{module} imports {other}"


def test_no_imports_in_a_circle():
    graph = imports()
    assert sum(map(len, graph.values())) > 100  # they were found
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_nothing_but_launch_and_tests_imports_launch():
    for folder in ("step1x_jax", "configs"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "launch" not in {
                (node.module or "").split(".")[0]
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.ImportFrom)
            }, file
