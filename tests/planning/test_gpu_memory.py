"""Memory of a step and an edit on GPUs that are not attached."""

import pytest

from configs.finetune_1024 import get_config
from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from step1x_jax.parallel.described_gpus import gpu_devices
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.planning.gpu_memory import (
    format_gpu_edit_plan,
    format_gpu_plan,
    plan_edit_memory,
    plan_gpu_memory,
    smallest_card,
)
from tests.training.tiny import tiny_config

PLAN = {
    "gpu": "NVIDIA H100 80GB HBM3", "gpus": 1, "examples": 1, "size": 1024, "remat": "full",
    "peak_gib": 90.0, "available_gib": 74.4, "compile_seconds": 3.0, "fits": False,
}  # fmt: skip


def test_what_does_not_fit_is_said_in_words():
    assert "90.0 GiB a GPU of 74.4: does not fit, 15.6 GiB are missing" in format_gpu_plan(PLAN)
    assert "of 74.4: fits (" in format_gpu_plan(PLAN | {"peak_gib": 31.5, "fits": True})


def test_an_unknown_gpu_is_named():
    with pytest.raises(UserError, match="--gpu=b300 is not known; use one of h100, h200"):
        gpu_devices("b300", 1)


def test_an_edit_is_said_in_words():
    plan = {
        "gpu": "H", "size": 1024, "quantize": "int8", "compile_seconds": 3.0,
        "weights_gib": {"transformer": 12.1, "language_model": 14.4, "autoencoder": 0.3},
        "temporaries_gib": {"read": 0.5, "sample": 1.5, "decode": 2.6},
        "peak_gib": {"resident": 129.4, "offloaded": 15.2},
        "smallest_card_gb": {"resident": None, "offloaded": 24},
    }  # fmt: skip
    words = format_gpu_edit_plan(plan)
    assert "transformer 12.1, language model 14.4, autoencoder 0.3; beside them: read 0.5" in words
    assert "all models on the GPU: 129.4 GiB, does not fit one of 80 GB" in words
    assert "with --offload: 15.2 GiB, fits a card of 24 GB" in words


def test_the_smallest_card():
    """An L4 reports 23034 MiB, an A10 23028, of which JAX uses 94 %: 21.1 GiB."""
    assert [smallest_card(gib) for gib in (21.1, 21.2, 42.2, 42.4, 74.3, 74.5)] == [
        24, 48, 48, 80, 80, None,
    ]  # fmt: skip


def test_an_edit_is_of_one_gpu():
    with pytest.raises(UserError, match="an edit is planned for one GPU"):
        plan_edit_memory(get_config(), [None, None], "h100", 1024)


@pytest.mark.slow
def test_the_memory_of_an_edit():
    """Compare weights with the released models' parameter counts."""
    pytest.importorskip("jax_cuda13_plugin", reason="needs JAX's CUDA plugin and nvidia-cuda-nvcc")
    plan = plan_edit_memory(get_config(), gpu_devices("h100", 1), "h100", 256)
    qwen = 8_292_166_656 - 152_064 * 3584  # without the output head
    expected = {
        "transformer": 2 * 12_427_800_384,
        "language_model": 2 * qwen,
        "autoencoder": 4 * 83_819_683,
    }
    found = {name: round(gib * 2**30) for name, gib in plan["weights_gib"].items()}
    assert found == expected
    beside = plan["temporaries_gib"]
    assert beside["decode"] > 256 * 256 * 128 * 4 / 2**30  # its last activations
    assert plan["peak_gib"]["resident"] == pytest.approx(
        sum(expected.values()) / 2**30 + max(beside.values())
    )
    at_work = (expected["transformer"] + expected["autoencoder"]) / 2**30 + beside["sample"]
    assert plan["peak_gib"]["offloaded"] == pytest.approx(at_work)
    assert plan["smallest_card_gb"] == {"resident": 48, "offloaded": 48}


@pytest.mark.slow
def test_a_small_step_on_two_gpus():
    """Each GPU holds half of the state: parameters, two moments, moving average."""
    pytest.importorskip("jax_cuda13_plugin", reason="needs JAX's CUDA plugin and nvidia-cuda-nvcc")
    config = override(
        tiny_config(),
        {
            "model.hidden_size": 512,
            "model.num_heads": 4,
            "model.axes_dim": (16, 56, 56),
            "model.dtype": "bfloat16",
            "model.remat": "auto",
        },
    )
    plans = []
    for count in (1, 2):
        config = override(config, {"mesh": MeshConfig(data=1, fsdp=count)})
        plans.append(plan_gpu_memory(config, gpu_devices("h200", count), "h200", 256, 1))
    one, two = plans
    assert two["gpu"] == "NVIDIA H200"
    assert two["mesh"]["fsdp"] == 2
    assert one["fits"]
    assert one["remat"] == "attention_qkv_mlp"  # everything fits
    assert two["arguments_gib"] == pytest.approx(one["arguments_gib"] / 2, rel=0.1)
    assert one["peak_gib"] > one["arguments_gib"]
