"""Adapters under official names; that a kohya file loaded as adapters gives golden numbers is in
tests/test_golden.py (lora)."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.config import LoraConfig, step1x_edit_v1_1, tiny
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import (
    Adapters,
    abstract_adapters,
    load_adapters,
    lora_table,
    select_targets,
)
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.lora.writers import save_kohya
from step1x_jax.weights.open import open_weights
from tests.golden import VECTORS
from tests.weights.tables import assert_covers_once

FILE = VECTORS / "lora" / "lora_kohya.safetensors"
SETTINGS = LoraConfig(rank=4, alpha=2.0)


@pytest.fixture(scope="module")
def config():
    return load_model(VECTORS / "dit_v1_0").config


def test_the_released_loras_have_304_modules():
    """19 double blocks with 10 linear layers, 38 single ones with 3, as the published files."""
    weights, places = select_targets(step1x_edit_v1_1(), LoraConfig().targets)
    assert len(weights) == 19 * 10 + 38 * 3 == 304
    assert len(places) == 10 + 3
    adapters = abstract_adapters(step1x_edit_v1_1(), LoraConfig(rank=64))
    # parameters of each module: 64 (inputs + outputs)
    wanted = sum(64 * sum(entry.shape) for entry in weights.values())
    assert sum(x.size for x in jax.tree.leaves(adapters)) == wanted


@pytest.mark.parametrize("targets", [("*",), ("connector.*", "*img_mlp.?"), ("*.linear2",)])
def test_the_table_covers_every_half(targets):
    lora = LoraConfig(rank=3, targets=targets)
    weights, _ = select_targets(tiny(), targets)
    assert_covers_once(lora_table(weights, 3), abstract_adapters(tiny(), lora))


def test_a_file_comes_back_byte_for_byte(config, tmp_path):
    adapters = load_adapters(FILE, abstract_adapters(config, SETTINGS), config, SETTINGS)
    save_kohya(tmp_path / "again.safetensors", Adapters(adapters, config, SETTINGS))
    here, there = load_file(tmp_path / "again.safetensors"), load_file(FILE)
    assert here.keys() == there.keys()
    for name, x in there.items():
        np.testing.assert_array_equal(here[name], x)
        assert here[name].dtype == x.dtype
    save_kohya(tmp_path / "half.safetensors", Adapters(adapters, config, SETTINGS), "bfloat16")
    assert load_file(tmp_path / "half.safetensors").keys() == there.keys()


def test_merging_ours_is_merging_the_file(config):
    """Conversion to our layout and back changes no number."""
    base = open_weights(VECTORS / "dit_v1_0").tensors
    wanted = open_weights(VECTORS / "dit_v1_0", loras=[(FILE, 1.0)]).tensors
    adapters = load_adapters(FILE, abstract_adapters(config, SETTINGS), config, SETTINGS)
    ours = Merged(base, [(Adapters(adapters, config, SETTINGS), 1.0)])
    for name in base.shapes:
        np.testing.assert_array_equal(ours.read(name), wanted.read(name))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("double_blocks.*", "tripple_blocks.*"), "'tripple_blocks.*' selects no linear layer"),
        (("single_blocks.0.*",), r"select single_blocks.0.\S+ but not single_blocks.1"),
        (("*.norm1",), "selects no linear layer"),  # no matrix
    ],
)
def test_patterns_that_fit_nothing_or_half_are_refused(targets, words):
    with pytest.raises(UserError, match=words):
        select_targets(tiny(), targets)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (LoraConfig(rank=8, alpha=2.0), "has rank 4 and alpha 2, the config 8 and 2"),
        (LoraConfig(rank=4, alpha=4.0), "has rank 4 and alpha 2, the config 4 and 4"),
        (LoraConfig(rank=4, alpha=2.0, targets=("double_blocks.*",)), "adapts single_blocks.0"),
        (LoraConfig(rank=4, alpha=2.0, targets=("*_blocks.*", "img_in")), "does not adapt img_in"),
    ],
)
def test_a_file_of_other_settings_is_refused(config, lora, words):
    with pytest.raises(UserError, match=words):
        load_adapters(FILE, abstract_adapters(config, lora), config, lora)


def test_layers_of_different_ranks_are_refused(config, tmp_path):
    tensors = load_file(FILE)
    name = "lora_unet_single_blocks_1_linear1"
    tensors[f"{name}.lora_down.weight"] = tensors[f"{name}.lora_down.weight"][:2].copy()
    tensors[f"{name}.lora_up.weight"] = tensors[f"{name}.lora_up.weight"][:, :2].copy()
    save_file(tensors, tmp_path / "mixed.safetensors")
    with pytest.raises(UserError, match=r"single_blocks\.1\.linear1 has rank 2"):
        load_adapters(
            tmp_path / "mixed.safetensors", abstract_adapters(config, SETTINGS), config, SETTINGS
        )
