"""How commands end."""

import sys

import jax
import pytest
from absl import flags

from launch.command import INTERRUPTED, run
from step1x_jax.errors import UserError


@pytest.fixture(autouse=True)
def without_flags(monkeypatch):
    """Another test may have imported a command in this process, whose flags are required."""

    def parse(argv):
        flags.FLAGS.mark_as_parsed()
        return list(argv)

    monkeypatch.setattr("launch.command._parse_flags", parse)
    yield
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("do this."), 1, "error: do this."),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB"), 1, "9 GiB; take a smaller batch"),
    ],
)
def test_what_a_user_can_mend_is_one_line(monkeypatch, capsys, error, code, message):
    def main():
        raise error

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        run(main)
    jax.config.update("jax_compilation_cache_dir", before)
    assert end.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)
