"""PP-OCRv5 on tiny random models, and its geometry and decoding on made-up answers."""

import json
import shutil
import types

import numpy as np
import pytest

from step1x_jax.curation.operators import pp_ocrv5
from step1x_jax.curation.operators.pp_ocrv5 import (
    TextBoxes,
    TextLines,
    cut_line,
    decode_line,
    find_boxes,
)
from step1x_jax.errors import UserError
from tests.curation.operators.tiny import check_batches, check_missing, encoded

pytestmark = [pytest.mark.torch, pytest.mark.curation]
LETTERS = ["blank", *"abcdefghijklmnopqrstuvwxyz", "中", " "]
BACKBONE = {
    "model_type": "hgnet_v2", "stem_channels": [3, 8, 8], "embedding_size": 8,
    "depths": [1] * 4, "hidden_sizes": [16] * 4, "stage_in_channels": [8, 16, 16, 16],
    "stage_mid_channels": [8] * 4, "stage_out_channels": [16] * 4, "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [1] * 4, "stage_kernel_size": [3] * 4,
    "stage_light_block": [False, False, True, True],
    "out_features": [f"stage{i}" for i in range(1, 5)],
}  # fmt: skip
SETTINGS = {
    "limit_side_len": 64, "limit_type": "max", "max_side_limit": 4000,
    "image_mean": [0.406, 0.456, 0.485], "image_std": [0.225, 0.224, 0.229],
}  # fmt: skip
READING = {
    "size": {"height": 48, "width": 96}, "max_image_width": 300, "character_list": LETTERS,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip


def save(model, folder, settings):
    import torch

    for parameter in model.parameters():
        if parameter.ndim > 1:  # else all pictures are the same to it
            parameter.data = 2 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import PPOCRV5ServerDetConfig, PPOCRV5ServerDetForObjectDetection

    block = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
    for i, name in enumerate(("long", "mid", "short")):
        side, pad = 7 - 2 * i, 3 - i
        block |= {
            f"vertical_long_to_small_conv_{name}ratio": [[side, 1], [1, 1], [pad, 0]],
            f"horizontal_small_to_long_conv_{name}ratio": [[1, side], [1, 1], [0, pad]],
            f"symmetric_conv_long_{name}ratio": [[side, side], [1, 1], [pad, pad]],
        }
    torch.manual_seed(0)
    config = PPOCRV5ServerDetConfig(
        backbone_config=BACKBONE, neck_out_channels=16, intraclass_block_config=block,
        scale_factor_list=[1, 2, 4, 8], kernel_list=[3, 2, 2],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("det") / "tiny"
    return save(PPOCRV5ServerDetForObjectDetection(config), folder, SETTINGS)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import PPOCRV5ServerRecConfig, PPOCRV5ServerRecForTextRecognition

    strides = {"stem_strides": [2, 1, 1, 1, 1], "stage_downsample": [True] * 4}
    strides |= {"stage_downsample_strides": [[2, 1], [1, 2], [2, 1], [2, 1]]}
    torch.manual_seed(0)
    config = PPOCRV5ServerRecConfig(
        backbone_config=BACKBONE | strides, hidden_size=16, num_attention_heads=2,
        head_out_channels=len(LETTERS),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("rec") / "tiny"
    return save(PPOCRV5ServerRecForTextRecognition(config), folder, READING)


def test_boxes_are_in_their_pictures(detector, monkeypatch):
    monkeypatch.setattr(pp_ocrv5, "PROBABLE", 0.5)  # what it finds is none of it sure
    monkeypatch.setattr(pp_ocrv5, "LEAST_SCORE", 0.1)
    sizes = [(40, 30), (200, 90), (64, 64)]
    rows = [{"id": str(i), "picture": encoded(i, size)} for i, size in enumerate(sizes)]
    made = check_batches(TextBoxes(model=str(detector)), rows)
    assert any(one["text_boxes"]["quads"] for one in made)
    for one, size in zip(made, sizes, strict=True):
        quads, scores = one["text_boxes"]["quads"], one["text_boxes"]["scores"]
        assert len(quads) == len(scores)
        corners = np.array(quads).reshape(-1, 2)
        assert ((corners >= 0) & (corners <= size)).all()


def test_lines_are_read(reader):
    quads = [[[2, 3], [30, 3], [30, 12], [2, 12]], [[5, 5], [12, 6], [11, 28], [4, 27]]]
    rows = [
        {"id": "a", "picture": encoded(0), "text_boxes": {"quads": quads, "scores": [1.0, 1.0]}},
        {"id": "b", "picture": encoded(1), "text_boxes": {"quads": [], "scores": []}},
        {"id": "c", "picture": encoded(2), "text_boxes": {"quads": quads[:1], "scores": [1.0]}},
    ]
    made = check_batches(TextLines(model=str(reader)), rows)
    assert [len(one["texts"]["texts"]) for one in made] == [2, 0, 1]
    for one in made:
        assert set("".join(one["texts"]["texts"])) <= set(LETTERS[1:])
        assert all(0 <= score <= 1 for score in one["texts"]["scores"])


def test_boxes_of_probabilities():
    """A sure line, a doubtful one, a speck; the picture is twice as wide as what the model saw."""
    import cv2

    found = np.zeros((100, 200), np.float32)
    found[20:31, 40:81] = 0.9  # corners are at whole pixels: 40 x 10
    found[80:88, 0:31] = 0.8  # at the edge
    found[60:71, 40:81] = 0.5
    found[90:92, 10:12] = 0.9
    made = find_boxes(cv2, found, (400, 100))
    grown = 1.5 * 40 * 10 / 100
    left, right, top, bottom = 2 * (40 - grown), 2 * (80 + grown), 20 - grown, 30 + grown
    quad, other = made["quads"]
    expected = [[left, top], [right, top], [right, bottom], [left, bottom]]
    np.testing.assert_allclose(quad, expected, atol=1)
    assert made["scores"] == pytest.approx([0.9, 0.8], abs=1e-3)
    assert [corner[0] for corner in other][::3] == [0, 0]  # it grows no further than the picture


def test_what_the_detector_sees():
    """Blue first, by the means in this order; sides are multiples of 32; nothing is enlarged."""
    from PIL import Image

    settings = types.SimpleNamespace(**SETTINGS | {"limit_side_len": 160})
    seen = pp_ocrv5._seen_by_detector(Image.new("RGB", (400, 180), (255, 51, 0)), settings)
    assert seen.shape == (3, 64, 160)
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(seen[:, 0, 0], expected, atol=1e-5)
    small = pp_ocrv5._seen_by_detector(Image.new("RGB", (100, 50)), settings)
    assert small.shape == (3, 64, 96)


def test_what_the_reader_sees():
    """A height of 48, the line's shape, and grey beside short lines."""
    settings = types.SimpleNamespace(**READING)
    seen = pp_ocrv5._seen_by_reader(np.full((24, 30, 3), 255, np.uint8), settings)
    assert seen.shape == (3, 48, 96)
    np.testing.assert_allclose(seen[:, :, :60], 1)
    np.testing.assert_allclose(seen[:, :, 60:], 0)
    long = pp_ocrv5._seen_by_reader(np.zeros((10, 500, 3), np.uint8), settings)
    assert long.shape == (3, 48, 300)


def test_a_line_is_cut_and_made_straight():
    import cv2

    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    line = cut_line(cv2, pixels, [[10, 20], [50, 20], [50, 30], [10, 30]])
    np.testing.assert_array_equal(line, pixels[20:30, 10:50])
    down = cut_line(cv2, pixels, [[10, 20], [20, 20], [20, 50], [10, 50]])
    np.testing.assert_array_equal(down, np.rot90(pixels[20:50, 10:20]))


def test_repeats_are_joined_and_blanks_dropped():
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    ids = [0, 8, 8, 0, 5, 12, 0, 12, 15, 15]
    found = torch.zeros(len(ids), len(LETTERS))
    for place, id in enumerate(ids):
        found[place, id] = 0.5 + place / 20
    text, score = decode_line(found, LETTERS)
    assert text == "hello"
    assert score == pytest.approx(0.5 + np.mean([1, 4, 5, 7, 8]) / 20, abs=1e-4)
    assert decode_line(found[:1], LETTERS) == ("", 0.0)


def test_missing_weights(detector, reader, tmp_path):
    copy = shutil.copytree(detector, tmp_path / "det")
    check_missing(TextBoxes(model=str(copy)), copy)
    copy = shutil.copytree(reader, tmp_path / "rec")
    settings = READING | {"character_list": LETTERS[:-1]}
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="tells 29 characters apart and lists 28"):
        TextLines(model=str(copy)).open()
    check_missing(TextLines(model=str(copy)), copy)
