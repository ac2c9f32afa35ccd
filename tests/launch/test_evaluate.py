"""launch.evaluate: one command for all that evaluates."""

import importlib.util
import subprocess
import sys

import pytest

from launch.evaluate import COMMANDS


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.evaluate", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("arguments", [(), ("jury",), ("jury", "--methods=a"), ("--methods=a",)])
def test_without_a_command_there_is_a_sentence(arguments):
    result = command(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_help_tells_of_commands_and_each_of_its_own_flags():
    result = command("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert all(f"{name.split()[0]}" in result.stdout for name in COMMANDS)
    result = command("report", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Print tables of what judges said")
    needed, others = result.stdout.split("Others:")
    assert "--methods: " in needed
    assert "--[no]require_complete: " in others
    assert "--model" not in result.stdout


@pytest.mark.slow
def test_flags_are_those_of_the_command():
    result = command("compare", "--methods=a,b", "--require_complete")
    assert result.returncode == 1
    assert "require_complete" in result.stderr
    result = command("report")
    assert result.returncode == 1
    assert result.stderr == "error: --methods is missing; --help tells more.\n"
    result = command("report", "judge", "--methods=a")
    assert "unexpected argument 'judge'" in result.stderr


def test_every_command_is_there():
    assert all(importlib.util.find_spec(module) for module in COMMANDS.values())
