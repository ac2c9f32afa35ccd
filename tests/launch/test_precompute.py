"""launch.precompute as a user runs it: in a process of its own, with small models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.convert.official import save_autoencoder
from step1x_jax.data.manifest import MANIFEST, read_manifest
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig
from tests.conditioning.small_qwen import HIDDEN, make_folder

ROOT = Path(__file__).parents[2]

# The command with a stand-in for the language model: one token per letter.
WITHOUT_TORCH = """
import numpy as np
from launch import precompute
class Encoder:
    def __init__(self, config): pass
    def encode(self, images, texts):
        return np.ones((len(texts), 50, 4), np.float32), np.array([len(t) + 1 for t in texts])
precompute.TransformersEncoder = Encoder
precompute.run(precompute.main)
"""


@pytest.fixture
def inputs(tmp_path):
    """Four edits, a small autoencoder and an empty encoder folder."""
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
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text("{}")
    return tmp_path


def precompute(folder, *flags, program=("-m", "launch.precompute")):
    command = [
        sys.executable, *program, f"--input={folder}/edits.jsonl", f"--output={folder}/out",
        f"--encoder={folder}/qwen", f"--autoencoder={folder}/vae", "--size=48", "--part_size=3",
        "--batch_size=2", "--min_pixels=3136", "--text_length=200", "--encoder_dtype=float32",
        *flags,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_exit_codes_and_messages(inputs):
    def run(*flags):
        return precompute(inputs, *flags, program=("-c", WITHOUT_TORCH))

    done = run()
    assert done.returncode == 0, done.stderr
    assert "4 edits in 3 shards" in done.stdout

    other = run("--size=64")
    assert other.returncode == 1
    (line,) = [line for line in other.stderr.splitlines() if line.startswith("error: ")]
    assert "made with size=48, now it is 64" in line

    (inputs / "s3.jpg").write_bytes(b"torn")
    bad = run()
    assert bad.returncode == 3
    assert "left out edits.jsonl line 4" in bad.stderr
    assert "s3.jpg is not a readable picture" in bad.stderr
    assert "3 edits" in bad.stdout
    manifest = read_manifest(inputs / "out" / MANIFEST)
    assert manifest.records == 3
    assert len(manifest.bad_rows) == 1


@pytest.mark.torch
@pytest.mark.slow
def test_the_real_classes_make_data_to_train_on(inputs):
    pytest.importorskip("torch", reason="needs the extra [torch]")
    make_folder(inputs / "qwen")
    done = precompute(inputs)
    assert done.returncode == 0, done.stderr
    config = DataConfig(path=str(inputs / "out"), batch_size=2)
    batch = next(make_batches(config, text_length=200, seed=0, start_step=0))
    assert batch["text"].shape == (2, 200, HIDDEN)
    assert 20 < batch["text_lengths"].min() <= batch["text_lengths"].max() <= 200
    assert np.isfinite(batch["target"].astype(np.float32)).all()
