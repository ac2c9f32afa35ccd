"""What importing costs, and starting to edit: what is large is imported where it is used."""

import ast
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import step1x_jax

HEAVY = ("torch", "transformers", "ray", "matplotlib", "tensorboardX", "grain", "orbax", "pyarrow")
# What an edit of safetensors on a CPU has no use for, beside the above: "orbax" alone is empty.
NOT_FOR_EDITING = (
    *(name for name in HEAVY if name != "orbax"), "orbax.checkpoint", "tensorstore", "scipy",
    "jax.experimental.pallas", "array_record", "fsspec.implementations.local",
)  # fmt: skip
# The picture processor, and what that brings where it is installed.
FOR_PICTURES = ("transformers", "torch", "scipy")
# In an edit: those of encoder (2), autoencoder (2) and sampler, and the noise; then some of a
# single operation on arrays, 9 to 12 in all with jax 0.10. Each takes 20 to 50 ms at least.
MOST_PROGRAMS = 14
SOURCE = Path(step1x_jax.__file__)
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

EDIT = """
import sys
import jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **more: compiled.append(name.endswith("backend_compile_duration")))
from step1x_jax.editing.editor import Editor
from PIL import Image
steps = []
(picture,) = Editor.load("quickstart").edit(
    Image.new("RGB", (64, 48), "red"), "Make it night", steps=2, size=64, on_step=steps.append)
assert picture.size == (64, 48) and len(steps) == 2
print(sum(compiled), jax.config.jax_compilation_cache_dir)
"""


def imported_by(statement, heavy=HEAVY):
    code = f"{statement}; import sys; print(*[m for m in {heavy!r} if m in sys.modules])"
    return run(code).split()


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_itself_is_light():
    assert set(imported_by("import step1x_jax")) <= {"orbax"}  # flax brings it


@pytest.mark.slow
def test_exports_are_loaded_when_they_are_asked_for():
    rooms = ("step1x_jax.editing", "step1x_jax.training", "step1x_jax.models")
    assert imported_by("import step1x_jax", rooms) == []
    assert imported_by("from step1x_jax import SamplingConfig", rooms) == []
    assert "step1x_jax.editing" in imported_by("from step1x_jax import Editor", rooms)


@pytest.mark.parametrize("name", step1x_jax.EXPORTS)
def test_every_export_is_there(name):
    assert getattr(step1x_jax, name).__module__ == f"step1x_jax.{step1x_jax.EXPORTS[name]}"
    assert name in dir(step1x_jax)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Editer'"):
        _ = step1x_jax.Editer


def test_type_checkers_see_the_exports():
    """py.typed is installed with the package, and what they read is what there is."""
    seen, _ = (node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    imports = {
        alias.asname: node.module.removeprefix("step1x_jax.")
        for node in seen.body
        for alias in node.names
        if alias.asname == alias.name  # otherwise no export to them
    }
    assert imports == step1x_jax.EXPORTS
    assert SOURCE.with_name("py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["step1x_jax"]


def test_requirements_are_those_of_the_package_and_of_its_tests():
    """Also alone they set up all but the extras; who uses the package gets no test runner."""
    dependencies, extras = (
        PROJECT["project"][x] for x in ("dependencies", "optional-dependencies")
    )
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert listed == [*dependencies, *extras["test"]]
    assert not [line for line in dependencies if "pytest" in line]
    others = [line for line in itertools.chain(*extras.values()) if "step1x_jax[" not in line]
    assert [line for line in [*listed, *others] if not re.search("==|,<", line)] == []
    assert extras["gpu"][0].replace("[cuda13]", "") in dependencies  # tests and plans: CUDA 13


@pytest.mark.slow
def test_models_conversion_and_sampling_need_no_torch():
    statement = (
        "import step1x_jax.models.step1x_edit, step1x_jax.weights.load,"
        " step1x_jax.sampling.sampler, step1x_jax.conditioning.encoder,"
        " step1x_jax.editing.loading, step1x_jax.training.loop, step1x_jax.data.pipeline,"
        " step1x_jax.data.precompute"
    )
    assert not {"torch", "transformers", "ray", "pyarrow"} & set(imported_by(statement))


def test_the_command_imports_nothing_that_its_edit_does_not_use():
    assert imported_by("import launch.edit", NOT_FOR_EDITING) == []


def test_an_edit_needs_few_programs_and_none_of_the_large_packages(
    tmp_path, user_without_compile_cache
):
    unused = [name for name in NOT_FOR_EDITING if name not in FOR_PICTURES]
    report = f"print(*[m for m in {unused!r} if m in sys.modules])"
    programs, folder, *modules = run(EDIT + report, HOME=str(tmp_path)).split()
    assert 5 <= int(programs) <= MOST_PROGRAMS
    assert modules == []
    assert folder == str(tmp_path / ".cache/step1x_jax/compiled")  # in Python as by the command
