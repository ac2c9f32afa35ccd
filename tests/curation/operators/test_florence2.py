"""Florence-2 on a tiny random model: what it says is read, and no row depends on another."""

import shutil

import pytest
from PIL import Image

from step1x_jax.curation.operators import florence2
from step1x_jax.curation.operators.florence2 import Describe, Detect
from tests.curation.operators.tiny import CONTEXT, check_batches, check_missing, decoded, encoded

pytestmark = pytest.mark.torch
TASKS = ("pure_text", "description_with_bboxes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from tokenizers import pre_tokenizers
    from transformers import (
        BartTokenizer,
        CLIPImageProcessorPil,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    folder = tmp_path_factory.mktemp("florence2") / "tiny"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    tokenizer = BartTokenizer(
        {name: i for i, name in enumerate(names)},
        [],
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens([f"<loc_{i}>" for i in range(1000)])
    pictures = CLIPImageProcessorPil(
        size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5
    )
    processor = Florence2Processor(
        pictures, tokenizer, post_processor_config={task: {} for task in TASKS}
    )
    processor.save_pretrained(folder)
    text = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 32}
    for half in ("encoder", "decoder"):
        text |= {f"{half}_layers": 1, f"{half}_attention_heads": 2, f"{half}_ffn_dim": 48}
    vision = {"embed_dim": (8, 16, 16, 16), "depths": (1, 1, 1, 1), "window_size": 2}
    vision |= {"num_heads": (1, 2, 2, 2), "num_groups": (1, 2, 2, 2), "projection_dim": 32}
    config = Florence2Config(
        text_config=text | {"max_position_embeddings": 128},
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
    )
    torch.manual_seed(0)
    model = Florence2ForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            # else all pictures are the same to it
            parameter.data = 2 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Its answers have no end."""
    monkeypatch.setattr(florence2, "MOST_TOKENS", 12)


def photographs():
    sizes = [(40, 30), (60, 90), (64, 64)]
    return [{"id": str(i), "picture": encoded(i, size)} for i, size in enumerate(sizes)]


def pairs():
    return [
        {"id": str(i), "source": encoded(i), "target": encoded(i + 10, (50, 20))} for i in range(2)
    ]


def test_boxes_are_in_their_pictures(folder):
    made = check_batches(Detect(model=str(folder)), photographs())
    for one, (width, height) in zip(made, [(40, 30), (60, 90), (64, 64)], strict=True):
        boxes, labels = one["boxes"]["boxes"], one["boxes"]["labels"]
        assert len(boxes) == len(labels) >= len(one["tags"]) == len(set(labels))
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def says(monkeypatch, text):
    """Whatever is asked, the model's tokens are these."""
    import torch
    from transformers import AutoTokenizer, Florence2ForConditionalGeneration

    def generate(self, pixel_values, **inputs):
        tokens = AutoTokenizer.from_pretrained(self.name_or_path)(
            text, add_special_tokens=False
        ).input_ids
        return torch.tensor([tokens] * len(pixel_values))

    monkeypatch.setattr(Florence2ForConditionalGeneration, "generate", generate)


def test_what_it_says_of_objects(folder, monkeypatch):
    """Places are thousandths of each side; one thing twice, one without area, one without name."""
    says(
        monkeypatch,
        "</s><s>cat<loc_100><loc_200><loc_500><loc_999><loc_0><loc_0><loc_499><loc_499>"
        "dog<loc_7><loc_7><loc_7><loc_7> <loc_1><loc_1><loc_9><loc_9>"
        "red hat<loc_250><loc_0><loc_750><loc_100></s><pad><pad>",
    )
    (made,) = Detect(model=str(folder)).open()(
        [{"id": "a", "picture": encoded(0, (400, 200))}], CONTEXT
    )
    assert made == {
        "boxes": {
            "boxes": [[40, 40, 200, 199], [0, 0, 199, 99], [100, 0, 300, 20]],
            "labels": ["cat", "cat", "red hat"],
        },
        "tags": ["cat", "red hat"],
    }


def test_captions(folder, monkeypatch):
    made = check_batches(Describe(model=str(folder)), pairs())
    model = florence2.Florence2(Describe(model=str(folder)))
    for row, one in zip(pairs(), made, strict=True):
        pictures = [Image.fromarray(decoded(row[name])) for name in ("source", "target")]
        said = [" ".join(text.split()) for text in model.answer(florence2.DESCRIBE, pictures)]
        assert said == [one["source_caption"], one["target_caption"]]
        assert said[0] != said[1]
    says(monkeypatch, "</s><s>A cat  on a mat.</s><pad><pad>")
    for one in Describe(model=str(folder)).open()(pairs(), CONTEXT):
        assert one == dict.fromkeys(("source_caption", "target_caption"), "A cat on a mat.")


def test_missing_weights(folder, tmp_path):
    check_missing(Detect(model=str(tmp_path / "copy")), shutil.copytree(folder, tmp_path / "copy"))
