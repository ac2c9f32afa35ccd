"""FLOPs of the model against closed formulas of the published architecture."""

import pytest

from step1x_jax.models.config import step1x_edit_v1_1
from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.monitoring.flops import BACKWARD, forward_flops, step_flops

WIDTH, CONNECTOR, TEXT, LAYERS = 3072, 4096, 640, 57


@pytest.mark.parametrize("size", [512, 1024])
def test_operations_of_an_example(size):
    """12 D^2 weights per block and 4 L^2 D for attention; the embeddings add 0.1 %."""
    tokens = 2 * (size // 16) ** 2 + TEXT
    blocks = LAYERS * (2 * 12 * WIDTH**2 * tokens + 4 * tokens**2 * WIDTH)
    connector = 2 * (2 * 12 * CONNECTOR**2 * TEXT + 4 * TEXT**2 * CONNECTOR)
    found = forward_flops(step1x_edit_v1_1(), (size // 8, size // 8))
    assert found == pytest.approx(blocks + connector, rel=2e-3)
    if size == 1024:
        assert (1 + BACKWARD) * found / 1e12 == pytest.approx(507.6, rel=5e-4)


def test_neither_policy_nor_kernel_changes_them():
    config = step1x_edit_v1_1()
    plain = forward_flops(config, (64, 64))
    config = override(config, {"remat": "full", "attention": "pallas_tpu"})
    assert forward_flops(config, (64, 64)) == plain


def test_a_frozen_base_has_no_gradients_of_its_own():
    """Two of three matmuls per weight remain; attention still has all three."""
    config = override(TrainConfig(model=step1x_edit_v1_1()), {"data.batch_size": 1})
    full = step_flops(config, (128, 128))
    config = override(config, {"lora.rank": 64})
    attention = LAYERS * 4 * 8832**2 * WIDTH
    weights = full / 3 - attention
    assert step_flops(config, (128, 128)) == pytest.approx(3 * attention + 2 * weights, rel=1e-6)
