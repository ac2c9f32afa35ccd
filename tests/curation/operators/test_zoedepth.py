"""ZoeDepth on a tiny random model: depth in the picture's size and in millimetres."""

import shutil

import numpy as np
import pytest

from step1x_jax.curation.operators.zoedepth import Depth, as_millimetres
from tests.curation.operators.tiny import check_batches, check_missing, decoded, encoded

pytestmark = pytest.mark.torch
SIZES = [(40, 30), (30, 40), (40, 30), (64, 20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil

    folder = tmp_path_factory.mktemp("zoedepth") / "tiny"
    backbone = {"model_type": "beit", "image_size": 64, "patch_size": 16, "hidden_size": 16}
    backbone |= {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    backbone |= {"out_features": [f"stage{i}" for i in range(1, 5)]}
    backbone |= {"use_relative_position_bias": True, "reshape_hidden_states": False}
    torch.manual_seed(0)
    config = ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16,
        bottleneck_features=16, num_relative_features=8, bin_embedding_dim=16,
        num_attractors=[4, 2, 1, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.5, "max_depth": 10.0}],
    )  # fmt: skip
    model = ZoeDepthForDepthEstimation(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # else all pictures are the same to it
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    model.save_pretrained(folder)
    ZoeDepthImageProcessorPil(
        size={"height": 64, "width": 64}, ensure_multiple_of=32
    ).save_pretrained(folder)
    return folder


def rows():
    return [{"id": str(i), "picture": encoded(i, size)} for i, size in enumerate(SIZES)]


def same_depth(one, other):
    """Up to a millimetre, which the last bits decide."""
    return np.abs(decoded(one["depth"]).astype(int) - decoded(other["depth"])).max() <= 1


def test_depth_of_each_picture(folder):
    made = check_batches(Depth(model=str(folder)), rows(), same_depth)
    for one, (width, height) in zip(made, SIZES, strict=True):
        depth = decoded(one["depth"])
        assert depth.shape == (height, width)
        assert depth.dtype == np.uint16
        assert depth.min() < depth.max() < 65535


def test_depth_is_the_models(folder):
    """The margin that the processor adds is taken away: compared at its own scale."""
    import torch
    from transformers import ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil

    (made,) = check_batches(Depth(model=str(folder)), rows()[:1])
    processor = ZoeDepthImageProcessorPil.from_pretrained(folder)
    model = ZoeDepthForDepthEstimation.from_pretrained(folder).eval()
    picture = decoded(rows()[0]["picture"])
    with torch.inference_mode():
        out = model(**processor(images=picture, return_tensors="pt")).predicted_depth
    across, down = int(3 * 20**0.5), int(3 * 15**0.5)  # of 40 x 30 pixels
    large = torch.nn.functional.interpolate(
        out[None], (30 + 2 * down, 40 + 2 * across), mode="bicubic"
    )[0, 0]
    metres = large[down:-down, across:-across].numpy()
    np.testing.assert_allclose(decoded(made["depth"]) / 1000, metres, atol=6e-4)  # half a mm


def test_millimetres():
    metres = np.array([[-1.0, 0.0004, 0.0006, 1.5, 70.0]])
    assert as_millimetres(metres).tolist() == [[0, 0, 1, 1500, 65535]]


def test_missing_weights(folder, tmp_path):
    check_missing(Depth(model=str(tmp_path / "copy")), shutil.copytree(folder, tmp_path / "copy"))
