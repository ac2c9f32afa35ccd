"""The scripts that start training: what they would do, and that what dies is started again."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def script(name, *arguments):
    return subprocess.run(
        ["bash", f"launch/{name}", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_one_box():
    done = script("gpu.sh", "--dry_run", "--config=configs/lora.py", "--workdir=runs/mine")
    assert done.returncode == 0, done.stderr
    assert "MEM_FRACTION=0.94 bash launch/restarting.sh" in done.stdout
    assert done.stdout.endswith("-m launch.train --config=configs/lora.py --workdir=runs/mine\n")


def test_slurm():
    done = script("slurm.sbatch", "--dry_run", "--config=configs/finetune_1024.py")
    assert done.returncode == 0, done.stderr
    assert "restarting.sh srun --kill-on-bad-exit=1" in done.stdout
    assert "-m launch.train --distributed --config=configs/finetune_1024.py" in done.stdout


def test_a_tpu_slice():
    flags = ["--tpu=mine", "--zone=us-east5-a", "--dry_run"]
    done = script("tpu_pod.sh", "start", *flags, "--", "--config=c.py", "--workdir=gs://a b/c")
    assert done.returncode == 0, done.stderr
    pack, copy, ssh = done.stdout.splitlines()
    assert "ls-files" in pack
    assert copy.startswith("gcloud compute tpus tpu-vm scp")
    assert "mine:step1x_jax.tar.gz --zone=us-east5-a --worker=all" in copy
    start = remote_command(ssh)
    assert subprocess.run(["bash", "-n", "-c", start]).returncode == 0
    assert "launch.train --distributed --config=c.py --workdir=gs://a\\ b/c" in start
    stop = script("tpu_pod.sh", "stop", *flags)
    assert remote_command(stop.stdout) == "pkill -TERM -f '[r]estarting.sh'"


def remote_command(line):
    """What the shell on the workers gets."""
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True
    ).stdout.split("\0")
    (command,) = (word for word in words if word.startswith("--command="))
    return command.removeprefix("--command=")


def test_gke():
    yaml = pytest.importorskip("yaml", reason="needs the extra [dev]")
    arguments = ["--config=c.py", '--workdir=gs://a b/"c"']
    flags = ["--name=mine", "--topology=v5p:4x4x4", "--image=example/step1x:1", "--slices=2"]
    done = script("gke/train.sh", *flags, "--dry_run", "--", *arguments)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout)
    (slices,) = job["spec"]["replicatedJobs"]
    spec = slices["template"]["spec"]
    assert (slices["replicas"], spec["parallelism"], spec["completions"]) == (2, 16, 16)
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x4"
    (container,) = pod["containers"]
    assert container["args"] == arguments
    assert container["command"][2].endswith('--distributed "$@"')


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("tpu_pod.sh", ["start", "--tpu=a", "--zone=b"], "give the flags of launch.train"),
        ("gpu.sh", [], "--config=configs/NAME.py is missing"),
        ("gpu.sh", ["--halp"], "(given: --halp)"),
        ("slurm.sbatch", ["--workdir=x"], "(given: --workdir=x)"),
        ("quickstart.sh", ["--fast"], "was given --fast"),
        ("tpu_pod.sh", ["start", "--tpu=a"], "give --tpu=NAME and --zone=ZONE"),
        ("tpu_pod.sh", ["fly", "--tpu=a", "--zone=b"], "give start, log or stop"),
        ("gke/train.sh", ["--name=a", "--steps=3"], "unknown flag --steps=3"),
        (
            "gke/train.sh",
            ["--name=a", "--image=b", "--topology=v9:2", "--", "--config=c"],
            "--topology is v9:2",
        ),
        ("restarting.sh", ["--tries=2"], "give a command"),
        ("restarting.sh", ["--trees=2"], "unknown flag --trees=2"),
    ],
)
def test_mistakes_are_one_sentence(name, arguments, sentence):
    done = script(name, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


SCRIPTS = sorted(
    str(path.relative_to(ROOT / "launch"))
    for pattern in ("*.sh", "*.sbatch", "gke/*.sh")
    for path in (ROOT / "launch").glob(pattern)
    if path.name not in ("environment.sh", "usage.sh")  # sourced by the others
)


def test_a_commit_is_checked_as_the_tests_check():
    """.pre-commit-config.yaml has the linters of launch/test.sh, their options, and all files."""
    yaml = pytest.importorskip("yaml", reason="needs the extra [dev]")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["id"]: hook for hook in local["hooks"]}
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks.values()}
    test = (ROOT / "launch/test.sh").read_text().replace('"$PYTHON" -m ', "")
    lines = re.findall(r"^(?:\.venv/bin/)?((?:ruff|mypy|shellcheck).*)$", test, re.MULTILINE)
    assert len(lines) == len(entries)
    assert all(any(line.startswith(entry) for entry in entries) for line in lines)
    scripts = [f"launch/{name}" for name in (*SCRIPTS, "environment.sh", "usage.sh")]
    assert all(re.search(hooks["shellcheck"]["files"], name) for name in scripts)
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    assert all(re.search(hooks["mypy"]["files"], f"{name}/a/b.py") for name in folders)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_the_usage_and_nothing_is_installed(tmp_path, name, flag):
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    done = subprocess.run(
        ["bash", f"launch/{name}", flag], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    command = "sbatch" if name.endswith("sbatch") else "bash"
    assert f"{command} " in done.stdout
    assert f"launch/{name}" in done.stdout
    assert "#" not in done.stdout.splitlines()[0]
    assert [path.name for path in tmp_path.iterdir()] == ["launch"]


def test_help_of_the_restarted_command_is_not_ours():
    done = script("restarting.sh", sys.executable, "-c", "import sys; print(sys.argv[1])", "--help")
    assert (done.returncode, done.stdout) == (0, "--help\n")


@pytest.mark.parametrize("state", ["new", "half made"])
def test_an_environment_without_pip_is_completed(tmp_path, state):
    """As on Debian without python3-venv: `python3 -m venv` fails, and leaves what it has made."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        "  -c*) ;;\n"
        '  "-m venv --without-pip V") mkdir -p V/bin; touch V/bin/python ;;\n'
        '  "-m venv V") mkdir -p V/bin; touch V/bin/python; echo no ensurepip; exit 1 ;;\n'
        '  "-m pip --quiet --python V/bin/python install pip")\n'
        "    touch V/bin/pip; chmod +x V/bin/pip ;;\n"
        "  *) exit 9 ;;\n"
        "esac\n"
    )
    python.chmod(0o755)
    if state == "half made":
        (tmp_path / "V/bin").mkdir(parents=True)
        (tmp_path / "V/bin/python").touch(0o755)
    command = f"source launch/environment.sh; make_venv V {python}; make_venv V /no/python"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "making V\n")
    assert (tmp_path / "V/bin/pip").exists()


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"python3": 12}, "python3"),
        ({"python3": 10, "python3.11": 11, "python3.12": 12}, "python3.12"),  # Ubuntu 22.04
        ({"python3": 10, "python3.13": 13}, "python3.13"),
        ({"python3": 10}, None),
    ],
)
def test_the_first_python_that_is_new_enough_is_taken(tmp_path, there, chosen):
    for name, minor in there.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {int(minor < 11)}\n")
        (tmp_path / name).chmod(0o755)
    command = f"source launch/environment.sh; PATH={tmp_path}; unset PYTHON; find_python"
    done = subprocess.run(["/bin/bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    if chosen:
        assert (done.returncode, done.stdout) == (0, f"{chosen}\n")
    else:
        assert done.returncode == 1
        assert "Python 3.11 or newer is needed, python3 is not" in done.stderr


def dying(folder, *codes):
    """A command that ends with one code after another, and counts its runs."""
    program = (
        "import json, os, pathlib, signal, sys\n"
        f"path, codes = pathlib.Path({str(folder / 'runs')!r}), {json.dumps(codes)}\n"
        "run = len(path.read_text()) if path.exists() else 0\n"
        "path.write_text('x' * (run + 1))\n"
        "os.kill(os.getpid(), 9) if codes[run] == 137 else sys.exit(codes[run])\n"
    )
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(
    ("codes", "runs", "code"),
    [
        ([0], 1, 0),
        ([137, 134, 0], 3, 0),  # kill -9; abort after a lost peer
        ([1], 1, 1),  # a sentence
        ([137, 143], 2, 143),  # stopped as asked
        ([134, 134, 134, 0], 3, 134),  # no more tries
    ],
)
def test_what_a_restart_fixes_is_run_again(tmp_path, codes, runs, code):
    done = script("restarting.sh", "--tries=3", "--wait=0", *dying(tmp_path, *codes))
    assert done.returncode == code
    assert len((tmp_path / "runs").read_text()) == runs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_handed_on_and_not_answered_by_a_restart(tmp_path, number):
    program = (
        "import pathlib, signal, sys, time\n"
        f"path = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(143)))\n"
        "(path / f'run{len(list(path.iterdir()))}').write_text('')\n"
        "time.sleep(60)\n"
    )
    script = ["bash", "launch/restarting.sh", "--wait=0", sys.executable, "-c", program]
    # tests that were started in the background of a script ignore SIGINT, and hand that on
    start = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        f"os.execvp('bash', {script!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT)
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait(timeout=30) == 143  # after the command's own half second
    assert len(list(tmp_path.iterdir())) == 1
