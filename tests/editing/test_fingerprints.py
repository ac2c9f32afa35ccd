"""Which weights an edit was made with."""

import shutil

from step1x_jax.editing.fingerprints import noted_models, weights_fingerprint
from step1x_jax.editing.loading import QUICKSTART, find_weights
from step1x_jax.editing.recipe import File, MergedLora
from step1x_jax.files import fingerprint
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.writer import write_weights_folder


def test_of_files_it_is_that_of_the_files(tmp_path):
    copy = shutil.copytree(QUICKSTART / "transformer", tmp_path / "elsewhere")
    (weights,) = copy.glob("*.safetensors")
    before = weights_fingerprint(copy)
    assert before == fingerprint(QUICKSTART / "transformer")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert weights_fingerprint(copy) != before


def test_of_a_run_it_is_that_of_its_newest_checkpoint(tmp_path):
    """Which has no files of its own beside checkpoints/."""
    weights = open_weights(QUICKSTART)
    for name in ("a", "b"):
        write_weights_folder(tmp_path / name, weights.tensors, weights.config, {})
    first = weights_fingerprint(tmp_path / "a")
    moved = shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert weights_fingerprint(moved) == first
    (tmp_path / "a" / "notes.txt").write_text("x")
    assert weights_fingerprint(tmp_path / "a") == first


def test_what_is_noted_of_all_models(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(b"x" * 100)
    found = find_weights("quickstart")
    noted = noted_models(found, "quickstart", None, f"{tmp_path}/qwen", [(str(lora), -0.5)])
    assert noted == {
        "model": File("quickstart", fingerprint(QUICKSTART / "transformer")),
        "autoencoder": File("", fingerprint(QUICKSTART / "autoencoder")),
        "encoder": File("~/qwen", fingerprint(QUICKSTART / "encoder")),
        "loras": (MergedLora("~/lora.safetensors", fingerprint(lora), -0.5),),
    }
