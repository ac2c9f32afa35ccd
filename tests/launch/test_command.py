"""How commands end."""

import pathlib
import signal
import subprocess
import sys

import jax
import pytest
from absl import flags

from launch.shared.command import run
from launch.shared.exit_codes import INTERRUPTED
from launch.shared.interrupt import end_at_once
from step1x_jax.errors import UserError


@pytest.fixture(autouse=True)
def without_flags(monkeypatch):
    """Another test may have imported a command in this process, whose flags are required."""

    def parse(argv):
        flags.FLAGS.mark_as_parsed()
        return list(argv)

    monkeypatch.setattr("launch.shared.command._parse_flags", parse)
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


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_the_needed_flags_first_and_is_no_error(flag):
    result = command("-m", "launch.edit", flag)
    assert (result.returncode, result.stderr) == (0, "")
    text = result.stdout
    assert text.startswith("Edit pictures")
    assert '--instruction="make it night" \\\n    --output=night.png' in text
    needed, others = text.split("Others:")
    for name in ("model", "image", "instruction"):
        assert f"--{name}: " in needed
    assert others.index("--output") < others.index("--seed") < others.index("--cache")
    for name in ("lora", "lora_scale", "[no]ema"):  # those of launch/shared/weights_flags.py, too
        assert f"--{name}: " in others


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edit", "train", "precompute"])
def test_a_commands_file_may_be_run_as_such(tmp_path, name):
    """From any folder: the root is found beside the file."""
    file = pathlib.Path(__file__).parents[2] / "launch" / f"{name}.py"
    result = command(str(file), "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Needed:" in result.stdout


@pytest.mark.slow
def test_what_a_command_works_on_is_given_once_and_of_settings_the_last_counts():
    needed = ("--image=nope.png", "--model=x", "--instruction=y")
    result = command("-m", "launch.edit", *needed, "--model=b")
    assert result.returncode == 1
    assert result.stderr == "error: --model is given more than once; give it once.\n"
    result = command("-m", "launch.edit", *needed, "--steps=2", "--steps=3")
    warning, error = result.stderr.splitlines()
    assert warning == "warning: --steps is given more than once; the last counts, 3."
    assert "nope.png cannot be read" in error


RENAMED = {"guidance": "guidance_scale", "qwen": "text_encoder", "autoencoder": "vae"}


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_sets_the_new_flag_and_says_so(old, new):
    """On one line; what is wrong with the value, or given twice, is said of the new name alone."""
    needed = ("--image=nope.png", "--model=x", "--instruction=y")
    result = command("-m", "launch.edit", *needed, f"--{old}=2")
    note, error = result.stderr.splitlines()
    assert note == f"--{old} is now --{new}; the old name goes away in 0.4"
    assert "nope.png cannot be read" in error
    result = command("-m", "launch.edit", *needed, f"--{old}=3", f"--{new}=4")
    assert result.stderr.splitlines()[1].startswith(f"warning: --{new} is given more than once")


@pytest.mark.slow
def test_an_old_name_counts_as_the_needed_flag():
    needed = ("--input=no", "--output=x", "--autoencoder=x")
    old = command("-m", "launch.precompute", *needed, "--qwen=x", "--encoder=torch")
    assert "--text_encoder_implementation=torch" in old.stderr
    assert command("-m", "launch.precompute", *needed).stderr == (
        "error: --text_encoder is missing; --help tells more.\n"
    )
    twice = command("-m", "launch.precompute", *needed, "--qwen=x", "--text_encoder=y")
    assert twice.stderr.endswith("error: --text_encoder is given more than once; give it once.\n")
    nan = command(
        "-m", "launch.edit", "--model=x", "--image=x", "--instruction=y", "--guidance=nan"
    )
    assert nan.stderr.endswith("error: flag --guidance_scale=nan: give a finite number\n")


def test_help_names_only_the_new_flag():
    text = command("-m", "launch.edit", "--help").stdout
    for old, new in RENAMED.items():
        assert f"--{new}: " in text
        assert f"--{old}" not in text.replace(f"--{new}", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "wrong"),
    [
        ("edit", ["--model=x", "--image=x", "--instruction=y"], "--guidance_scale=nan"),
        ("convert", ["--input=x", "--output=y", "--lora=a", "--lora=b", "--lora_scale=1"],
         "--lora_scale=-inf"),
        ("precompute", ["--input=x", "--output=y", "--text_encoder=z", "--vae=z"],
         "--negatives=nan"),
        ("train_autoencoder", ["--output=x"], "--learning_rate=inf"),
    ],
)  # fmt: skip
def test_numbers_of_flags_are_finite(name, flags, wrong):
    result = command("-m", f"launch.{name}", *flags, wrong)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: flag {wrong.split('=')[0]}=")
    assert result.stderr.endswith(": give a finite number\n")


OF_EXTRAS = ("torch", "diffusers", "ray", "cv2", "pyarrow", "skimage", "sklearn", "matplotlib")


@pytest.mark.slow
def test_commands_show_their_flags_without_any_extra():
    """What an extra brings is imported where it is used, so that its absence is one sentence."""
    folder = pathlib.Path(__file__).parents[2] / "launch"
    files = sorted(folder.glob("[a-z]*.py"))
    commands = [f"launch.{file.stem}" for file in files if file.stem != "launch"]
    assert len(commands) > 10
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({OF_EXTRAS!r}))\n"  # None: an ImportError
        "from absl import flags\n"
        f"for name in {commands!r}:\n"
        "    importlib.import_module(name)\n"
        "    [delattr(flags.FLAGS, flag) for flag in list(flags.FLAGS)]\n"  # others have the same
    )
    result = command("-c", program)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_flags_of_several_values_may_be_given_several_times():
    result = command("-m", "launch.precompute", "--input=no", "--input=nope", "--output=x",
                     "--text_encoder=x", "--vae=x")  # fmt: skip
    assert "more than once" not in result.stderr


def test_ctrl_c_while_importing_is_one_word():
    command = [sys.executable, "-X", "importtime", "-m", "launch.edit", "--help"]
    # tests that were started in the background of a script ignore SIGINT, and hand that on
    start = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        f"os.execv({sys.executable!r}, {command!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    lines = iter(process.stderr.readline, "")
    for line in lines:
        if line.rstrip().endswith(" launch"):  # before all that it imports
            process.send_signal(signal.SIGINT)
            break
    rest = [line for line in lines if not line.startswith("import time:")]
    assert process.wait() == INTERRUPTED
    assert "".join(rest).strip() == "interrupted"


def test_importing_the_commands_leaves_ctrl_c_alone():
    assert signal.getsignal(signal.SIGINT) is not end_at_once


def test_too_little_memory_is_one_line(monkeypatch, capsys):
    def main():
        raise MemoryError

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        run(main)
    jax.config.update("jax_compilation_cache_dir", before)
    assert end.value.code == 1
    assert "the memory of this machine does not suffice" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [3, 100_000])  # less and more than a buffer
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, lines):
    program = tmp_path / "count.py"
    program.write_text(
        f"""
import time
from launch.shared.command import run

def main():
    time.sleep(0.5)  # the reader is gone by then
    for i in range({lines}):
        print(i)

run(main)
"""
    )
    python = f"PYTHONPATH={pathlib.Path(__file__).parents[2]} {sys.executable} {program}"
    done = subprocess.run(
        ["bash", "-c", f"{python} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert (done.stderr, done.stdout) == ("", "141\n")
