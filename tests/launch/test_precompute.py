"""launch.precompute as a user runs it: in a process of its own, with small models."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.data.manifest import MANIFEST, read_manifest
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.data.shards import ShardReader
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.weights.save import save_autoencoder
from tests.conditioning.small_qwen import HIDDEN, make_folder
from tests.data.examples import assert_equal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def inputs(tmp_path):
    """Four edits, a small autoencoder and a small Qwen2.5-VL."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        for name in (f"s{i}.jpg", f"t{i}.jpg"):
            pixels = rng.integers(0, 256, (48, 48 + i % 2 * 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name)
        rows.append({"source": f"s{i}.jpg", "target": f"t{i}.jpg", "instruction": "mach’s rot"})
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = AutoencoderConfig(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    save_autoencoder(
        tmp_path / "vae" / "weights.safetensors", Autoencoder(config, rngs=nnx.Rngs(0))
    )
    make_folder(tmp_path / "qwen")
    return tmp_path


def command(folder, *flags):
    """The command line; `flags` take the place of those of the same names."""
    defaults = [
        f"--input={folder}/edits.jsonl", f"--output={folder}/out",
        f"--text_encoder={folder}/qwen", f"--vae={folder}/vae", "--size=48", "--part_size=3",
        "--batch_size=1", "--min_pixels=3136", "--text_length=200", "--text_encoder_dtype=float32",
    ]  # fmt: skip
    given = {flag.split("=")[0] for flag in flags}
    kept = [flag for flag in defaults if flag.split("=")[0] not in given]
    return [sys.executable, "-m", "launch.precompute", *kept, *flags]


def precompute(folder, *flags):
    return subprocess.run(command(folder, *flags), cwd=ROOT, capture_output=True, text=True)


def records(folder):
    shards = read_manifest(folder / MANIFEST).shards
    readers = [ShardReader(folder, shard) for shard in shards]
    return {
        record.id: record
        for reader in readers
        for record in map(reader.__getitem__, range(len(reader)))
    }


@pytest.mark.slow
def test_exit_codes_and_messages(inputs):
    done = precompute(inputs)
    assert done.returncode == 0, done.stderr
    assert "4 edits in 3 shards" in done.stdout
    assert re.search(r"8 pictures in .* a second; the devices waited \d+% of the time", done.stdout)
    config = DataConfig(path=str(inputs / "out"), batch_size=2)
    batch = next(make_batches(config, text_length=200, seed=0, start_step=0))
    assert batch["text"].shape == (2, 64, HIDDEN)  # as many tokens as the longest text needs
    assert 20 < batch["text_lengths"].min() <= batch["text_lengths"].max() < 64
    assert np.isfinite(batch["target"].astype(np.float32)).all()

    other = precompute(inputs, "--size=64")
    assert other.returncode == 1
    (line,) = [line for line in other.stderr.splitlines() if line.startswith("error: ")]
    assert "made with size=48, now it is 64" in line

    (inputs / "s3.jpg").write_bytes(b"torn")
    bad = precompute(inputs)
    assert bad.returncode == 3
    assert "left out edits.jsonl line 4" in bad.stderr
    assert "s3.jpg is not a readable picture" in bad.stderr
    assert "3 edits" in bad.stdout
    assert read_manifest(inputs / "out" / MANIFEST).records == 3
    (rejected,) = map(json.loads, (inputs / "out" / "rejected.jsonl").read_text().splitlines())
    assert rejected["row"] == "edits.jsonl line 4"


@pytest.mark.slow
def test_failures_leave_nothing_and_paths_are_those_of_the_shell(inputs):
    """In one test, for each process takes seconds to start."""
    (inputs / "edits.jsonl").rename(inputs / "kept.jsonl")
    broken = inputs / "broken.safetensors"  # found out when it is loaded, after all checks
    broken.write_bytes(b"torn")
    for flags in ([], [f"--input={inputs}/kept.jsonl", f"--vae={broken}"]):
        done = precompute(inputs, f"--output={inputs}/new/deep/out", *flags)
        assert done.returncode == 1, done.stderr
        assert len([line for line in done.stderr.splitlines() if "error: " in line]) == 1
        assert not (inputs / "new").exists()
    (inputs / "kept.jsonl").rename(inputs / "edits.jsonl")
    home = {**os.environ, "HOME": str(inputs)}
    flags = ["--output=~/new/out/", "--input=~/", "--text_encoder=~/qwen/", "--vae=~/vae/"]
    for _ in range(2):
        done = subprocess.run(
            command(inputs, *flags), cwd=ROOT, env=home, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "4 edits in 3 shards" in done.stdout
    assert not (ROOT / "~").exists()
    assert records(inputs / "new" / "out")


@pytest.mark.slow
def test_many_faults_are_not_a_thousand_lines(inputs):
    rows = (inputs / "edits.jsonl").read_text().splitlines()
    faulty = [json.dumps({"source": f"{i}.png", "target": "x.png"}) for i in range(300)]
    (inputs / "edits.jsonl").write_text("\n".join([*rows, *faulty]))
    done = precompute(inputs)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("left out edits.jsonl line") == 20
    assert "more is left out, see" in done.stderr
    assert "300 rows could not be used" in done.stderr
    assert len((inputs / "out" / "rejected.jsonl").read_text().splitlines()) == 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--weights=nan"], "'nan' is no positive number"),
        (["--negatives=nan"], "flag --negatives=nan: give a finite number"),
        (["--min_kept=2"], "min_kept is 2"),
        (["--size=1000000"], "--size=1000000"),
        (["--text_length=10000000000"], "text_length is 10000000000"),
        (["--part_size=0"], "--part_size=0"),
        (["--fsdp=-7"], "--fsdp=-7"),
        (["--root=/tmp"], "none of the pictures that edits.jsonl names"),
        (["--weights=3,1"], "has 2 numbers for 1"),
        (["--weights=0"], "'0' is no positive number"),
        (["--process_index=2", "--process_count=2"], "number the processes from 0"),
        (["--fsdp=3"], "do not fit 8 devices"),
        (["--negatives=2"], "negatives is 2"),
    ],
)
def test_impossible_flags_are_one_sentence(inputs, flags, reason):
    done = precompute(inputs, *flags)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert reason in line


@pytest.mark.slow
def test_two_processes_share_the_work_and_equal_one(inputs):
    """At the same time; chunks of one edit each."""
    shares = [
        subprocess.Popen(
            command(inputs, "--part_size=1", f"--process_index={i}", "--process_count=2"),
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [share.communicate()[0] for share in shares]
    assert [share.returncode for share in shares] == [0, 0]
    assert any("4 edits in 4 shards" in output for output in outputs)
    shared = records(inputs / "out")
    (inputs / "out").rename(inputs / "shared")
    assert precompute(inputs).returncode == 0
    for name, record in records(inputs / "out").items():
        assert_equal(record, shared[name])


@pytest.mark.slow
def test_a_killed_run_leaves_no_half_shard_and_is_finished_by_the_next(inputs):
    rows = (inputs / "edits.jsonl").read_text().splitlines() * 10
    (inputs / "edits.jsonl").write_text("\n".join(rows))
    out = inputs / "out"
    running = subprocess.Popen(command(inputs), cwd=ROOT)
    while not list(out.glob("part-*.json")):  # until the first chunk is there
        assert running.poll() is None
        time.sleep(0.01)
    running.kill()
    running.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert not (out / MANIFEST).exists()
    assert precompute(inputs).returncode == 0
    assert not list(out.glob(".*"))
    assert {n: t for n, t in before.items() if (out / n).stat().st_mtime_ns == t} == before
    assert len(records(out)) == 40


@pytest.mark.torch
@pytest.mark.slow
def test_both_encoders_write_the_same_records(inputs):
    pytest.importorskip("torch", reason="needs the extra [torch]")
    assert precompute(inputs).returncode == 0
    ours = records(inputs / "out")
    (inputs / "out").rename(inputs / "ours")
    done = precompute(inputs, "--text_encoder_implementation=transformers")
    assert done.returncode == 0, done.stderr
    for name, theirs in records(inputs / "out").items():
        np.testing.assert_array_equal(ours[name].source, theirs.source)
        for text in ("text", "negative_text"):
            a, b = (np.float32(getattr(record, text)) for record in (ours[name], theirs))
            # bfloat16 rounds float32 values that differ by 1e-5 to neighbours at most
            np.testing.assert_allclose(a, b, rtol=2**-7, atol=1e-3)
