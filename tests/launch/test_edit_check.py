"""launch.edit --check as a command: its lines, its exit code, what it refuses."""

import shutil

import pytest

from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.errors import UserError
from tests.launch.edit_command import Command, alone


@pytest.fixture(scope="module")
def command():
    with alone() as module:
        yield Command(module)


@pytest.fixture
def folder(tmp_path):
    """The quickstart without the language model, which takes long to import."""
    copy = tmp_path / "model"
    shutil.copytree(QUICKSTART, copy, ignore=shutil.ignore_patterns("encoder"))
    return copy


def test_a_line_for_each_check_and_what_to_report(command, folder, capsys):
    assert command("--check", f"--model={folder}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step1x_jax ")
    kinds = ("ok", "differs", "not compared", "noted")
    assert all(line.startswith(kinds) for line in lines[1:-2])
    assert "0 differs" in lines[-2]
    assert lines[-1] == "Nothing differs."
    path = folder / "autoencoder" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert command("--check", f"--model={folder}") == 1
    lines = capsys.readouterr().out.splitlines()
    (wrong,) = [line for line in lines if line.startswith("differs")]
    assert "truncated" in wrong
    assert "1 differs" in lines[-2]
    assert "issue" in lines[-1]
    assert command.loaded == []  # nothing is edited


def test_flags_of_edits_have_no_place_with_it(command):
    for flag in ("--image=a.png", "--lora=a.safetensors", "--ema", "--like=a.png"):
        with pytest.raises(UserError, match=r"leave --\w+ out"):
            command("--check", flag)
