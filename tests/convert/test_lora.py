"""kohya files: the merged numbers are in tests/test_golden.py (lora), here what is refused."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.convert.keys import model_table
from step1x_jax.convert.lora import KohyaLora
from step1x_jax.convert.official import load_model
from step1x_jax.convert.safetensors_io import SafetensorsFile
from step1x_jax.errors import UserError
from tests.golden import VECTORS

FILE = VECTORS / "lora" / "lora_kohya.safetensors"
MODULE = "lora_unet_single_blocks_0_linear1"


@pytest.fixture(scope="module")
def table():
    return model_table(load_model(VECTORS / "dit_v1_0").config)


def test_merging_adds_alpha_over_rank_times_up_down(table):
    base = SafetensorsFile(VECTORS / "dit_v1_0" / "weights.safetensors")
    lora, tensors = KohyaLora(FILE, table), load_file(FILE)
    merged = lora.merged_into(base.read, 0.5)
    up, down = tensors[f"{MODULE}.lora_up.weight"], tensors[f"{MODULE}.lora_down.weight"]
    name = "single_blocks.0.linear1.weight"
    want = base.read(name).astype(np.float64) + 0.5 * (2.0 / 4) * np.float64(up) @ down
    np.testing.assert_allclose(merged(name), want, rtol=1e-5, atol=1e-7)  # float32 sum
    np.testing.assert_array_equal(merged("img_in.weight"), base.read("img_in.weight"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.update({"lora_te_encoder_q.alpha": np.array(1, np.float32)}),
            "lora_te_encoder_q.alpha belongs to no linear layer",
        ),
        (lambda t: t.pop(f"{MODULE}.lora_up.weight"), f"{MODULE} needs"),
        (
            lambda t: t.update({f"{MODULE}.lora_up.weight": np.zeros((5, 4), np.float32)}),
            "was made for another model",
        ),
    ],
)
def test_what_does_not_belong_is_named(tmp_path, table, change, words):
    tensors = load_file(FILE)
    change(tensors)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=words):
        KohyaLora(tmp_path / "bad.safetensors", table)
