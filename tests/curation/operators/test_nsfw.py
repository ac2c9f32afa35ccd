"""The probability of an unsafe picture, against the model's own logits, on a tiny random ViT."""

import json
import shutil

import numpy as np
import pytest

from step1x_jax.curation.operators.nsfw import Nsfw, TargetNsfw
from step1x_jax.errors import UserError
from tests.curation.operators.tiny import CONTEXT, check_batches, check_missing, decoded, encoded

pytestmark = pytest.mark.torch
SIZES = [(40, 30), (30, 50), (16, 16)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("nsfw") / "tiny"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, id2label={0: "drawing", 1: "nsfw", 2: "normal"},
        initializer_range=0.5,  # else all pictures are the same to it
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def rows(column="picture"):
    return [{"id": str(i), column: encoded(i, size)} for i, size in enumerate(SIZES)]


def test_it_is_the_share_of_the_label(folder):
    import torch
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    model = ViTForImageClassification.from_pretrained(folder).eval()
    processor = ViTImageProcessorPil.from_pretrained(folder)
    expected = []
    for row in rows():
        inputs = processor(images=decoded(row["picture"]), return_tensors="pt")
        with torch.inference_mode():
            shares = np.exp(model(**inputs).logits[0].double().numpy())
        expected.append(shares / shares.sum())
    assert np.ptp(expected, axis=0).min() > 0.01  # labels and pictures differ
    for place, label in enumerate(("drawing", "nsfw", "normal")):
        made = check_batches(Nsfw(model=str(folder), label=label), rows())
        found = [one["nsfw"] for one in made]
        np.testing.assert_allclose(found, np.array(expected)[:, place], atol=1e-4)  # 4 decimals


def test_targets_are_seen_like_photographs(folder):
    stage = TargetNsfw(model=str(folder))
    made = stage.open()(rows("target"), CONTEXT)
    assert made == Nsfw(model=str(folder)).open()(rows(), CONTEXT)
    assert stage.fingerprint() != Nsfw(model=str(folder)).fingerprint()


def test_the_label_is_the_models(folder, tmp_path):
    with pytest.raises(UserError, match=r"has the labels drawing, nsfw, normal, and not 'porn'"):
        Nsfw(model=str(folder), label="porn").open()
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    for name in ("id2label", "label2id"):
        del config[name]
    (copy / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
    with pytest.raises(UserError, match=r"labels LABEL_0, LABEL_1, LABEL_2, and not 'nsfw'"):
        Nsfw(model=str(copy)).open()


def test_missing_weights(folder, tmp_path):
    check_missing(Nsfw(model=str(tmp_path / "copy")), shutil.copytree(folder, tmp_path / "copy"))
