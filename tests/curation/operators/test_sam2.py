"""SAM 2 on a tiny random model: masks have the picture's size, and no row depends on another."""

import shutil

import numpy as np
import pytest
from PIL import Image

from step1x_jax.curation.operators.sam2 import Masks
from tests.curation.operators.tiny import check_batches, check_missing, decoded, encoded

pytestmark = pytest.mark.torch
SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import Sam2Config, Sam2Model

    folder = tmp_path_factory.mktemp("sam2") / "tiny"
    widths = [8, 16, 32, 64]
    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIDE, SIDE]}
    backbone |= {"embed_dim_per_stage": widths, "blocks_per_stage": [1, 1, 2, 1]}
    backbone |= {"num_attention_heads_per_stage": [1, 1, 2, 2], "global_attention_blocks": [3]}
    backbone |= {"window_size_per_stage": [4, 2, 4, 2]}
    vision = {"backbone_config": backbone, "backbone_channel_list": widths[::-1]}
    vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32}
    decoder = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "patch_size": 16},
        mask_decoder_config={**decoder, "iou_head_hidden_dim": 32},
    )
    model = Sam2Model(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    model.save_pretrained(folder)
    return folder


def rows():
    sizes = [(40, 30), (96, 128), (64, 64)]
    boxes = [[[2, 3, 20, 25], [10, 10, 40, 30]], [], [[0, 0, 64, 64]]]
    return [
        {
            "id": str(i),
            "picture": encoded(i, size),
            "boxes": {"boxes": some, "labels": ["x"] * len(some)},
        }
        for i, (size, some) in enumerate(zip(sizes, boxes, strict=True))
    ]


def test_a_mask_for_each_box(folder):
    made = check_batches(Masks(model=str(folder)), rows())
    assert [len(one["masks"]) for one in made] == [2, 0, 1]
    assert [len(one["mask_scores"]["scores"]) for one in made] == [2, 0, 1]
    masks = [decoded(mask) for mask in made[0]["masks"]]
    assert {mask.shape for mask in masks} == {(30, 40)}
    assert all(set(np.unique(mask)) <= {0, 255} for mask in masks)
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize("number", [0, 2])
def test_masks_are_those_of_the_model(folder, number):
    """By the way of the model's own forward, from pixels, with pictures of another shape, too."""
    import torch
    from transformers import Sam2Model

    row = rows()[number]
    (made,) = check_batches(Masks(model=str(folder)), [row])
    picture = Image.fromarray(decoded(row["picture"]))
    (width, height), (box, *_) = picture.size, row["boxes"]["boxes"]
    seen = np.array(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(seen).permute(2, 0, 1)[None] / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    left, top, right, bottom = box
    model = Sam2Model.from_pretrained(folder).eval()
    with torch.inference_mode():
        out = model(
            pixel_values=(pixels - mean) / deviation,
            input_boxes=torch.tensor(
                [[[x * SIDE / width, y * SIDE / height] for x, y in ((left, top), (right, bottom))]]
            ).view(1, 1, 4),
            multimask_output=False,
        )
        large = torch.nn.functional.interpolate(out.pred_masks[0], (height, width), mode="bilinear")
    mask = decoded(made["masks"][0]) > 0
    assert 0 < mask.mean() < 1
    # the rest are pixels at the edge, where the last bits decide
    assert (mask == (large[0, 0].numpy() > 0)).mean() > 0.999
    score = made["mask_scores"]["scores"][0]
    assert score == pytest.approx(float(out.iou_scores), abs=1e-3)


def test_missing_weights(folder, tmp_path):
    check_missing(Masks(model=str(tmp_path / "copy")), shutil.copytree(folder, tmp_path / "copy"))
