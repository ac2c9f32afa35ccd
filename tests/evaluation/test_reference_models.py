"""CLIP, DINO and LPIPS with tiny random models of the real classes, against other code."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from step1x_jax.errors import UserError
from tests.evaluation.toy import picture

pytestmark = pytest.mark.torch

NETWORKS = {  # torchvision's `features`: width of a convolution, or M for a pool
    "alex": [(64, 11), "M", (192, 5), "M", (384, 3), (256, 3), (256, 3)],
    "vgg": [(w, 3) for w in (64, 64)] + ["M"] + [(w, 3) for w in (128, 128)] + ["M"]
    + [(w, 3) for w in (256,) * 3] + ["M"] + [(w, 3) for w in (512,) * 3] + ["M"]
    + [(w, 3) for w in (512,) * 3],
}  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs the extra [torch]")


@pytest.fixture(scope="module")
def models(torch):
    from step1x_jax.evaluation import reference_models

    return reference_models


def settings(**more):
    return {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, **more,
    }  # fmt: skip


def write_processor(folder, kind):
    values = {
        "image_processor_type": kind, "do_resize": True, "size": {"shortest_edge": 32},
        "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4], "resample": 3, "do_convert_rgb": True,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def clip_folder(torch, tmp_path_factory):
    import tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = {w: i for i, w in enumerate(["<s>", "</s>", "<pad>", "a", "red", "blue", "disc", "?"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="?", model_max_length=10,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    text = settings(
        vocab_size=8, max_position_embeddings=10, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    vision = settings(image_size=32, patch_size=8)
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    ).save_pretrained(folder)
    write_processor(folder, "CLIPImageProcessor")
    return folder


def as_pixels(torch, image):
    """What write_processor says, by hand: the shorter side to 32, the middle, normalised."""
    scale = 32 / min(image.size)
    image = image.resize([round(x * scale) for x in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - 32) // 2, (image.height - 32) // 2
    pixels = np.asarray(image.crop((left, top, left + 32, top + 32)), np.float32) / 255
    return torch.from_numpy(((pixels - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).astype(np.float32))


def cosine(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return (a @ b) / np.sqrt((a @ a) * (b @ b))


def test_clip_i_and_clip_t_are_cosines_of_its_embeddings(torch, models, clip_folder):
    from transformers import CLIPModel

    one, other = picture("one", (96, 64)), picture("other", (50, 50))
    clip = models.ClipMeasure(clip_folder)
    found = clip.compare(clip.describe(one), clip.describe(other))
    text = models.ClipTextMeasure(clip).measure(one, "a red disc")
    # the model's own forward pass gives embeddings, and the similarity of picture and text
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = torch.stack([as_pixels(torch, image) for image in (one, other)]).permute(0, 3, 1, 2)
    ids = torch.tensor([[0, 3, 4, 6, 1]])
    with torch.inference_mode():
        output = model(input_ids=ids, pixel_values=pixels)
    # float32 models: rounding of pixels, of sums of 32 x 32 x 3 products
    assert found == pytest.approx(cosine(*output.image_embeds), abs=1e-4)
    similarity = float(output.logits_per_image[0, 0]) / float(model.logit_scale.detach().exp())
    assert text == pytest.approx(similarity, abs=1e-4)
    assert clip.compare(clip.describe(one), clip.describe(one)) == pytest.approx(1, abs=1e-12)
    assert abs(found) < 0.9999
    # longer texts are cut
    assert np.isfinite(models.ClipTextMeasure(clip).measure(one, "a red disc " * 50))


def test_dino_is_the_cosine_of_class_tokens(torch, models, tmp_path):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**settings(image_size=32, patch_size=8)), add_pooling_layer=False)
    with torch.no_grad():  # at random the class token hardly sees the picture
        for parameter in model.parameters():
            parameter.mul_(8)
    model.save_pretrained(tmp_path)
    write_processor(tmp_path, "CLIPImageProcessor")
    one, other = picture("one", (96, 64)), picture("other", (96, 64))
    dino = models.DinoMeasure(tmp_path)
    pixels = torch.stack([as_pixels(torch, image) for image in (one, other)]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        tokens = model.eval()(pixel_values=pixels).last_hidden_state[:, 0]
    found = dino.compare(dino.describe(one), dino.describe(other))
    assert found == pytest.approx(cosine(*tokens), abs=1e-4)
    assert found < 0.999


def random_features(torch, kind, path):
    """A backbone with torchvision's structure and names, saved; as a module."""
    torch.manual_seed(0)
    layers, channels = [], 3
    for one in NETWORKS[kind]:
        if one == "M":
            layers.append(torch.nn.MaxPool2d(3 if kind == "alex" else 2, 2))
            continue
        width, side = one
        stride = 4 if side == 11 else 1
        layers += [
            torch.nn.Conv2d(channels, width, side, stride, 2 if side > 3 else 1),
            torch.nn.ReLU(),
        ]
        channels = width
    features = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in features.parameters():
            parameter.mul_(2)  # or nothing is left after thirteen layers
    tensors = {f"features.{k}": v.numpy() for k, v in features.state_dict().items()}
    save_file(tensors | {"classifier.6.bias": np.zeros(3, np.float32)}, path)
    return features


@pytest.mark.parametrize("kind", NETWORKS)
def test_lpips_is_that_of_torchmetrics(torch, models, kind, tmp_path, monkeypatch):
    """Its module, around the same random backbone: scaling, normalising, heads, means."""
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips", reason="needs [torch]")
    features = random_features(torch, kind, tmp_path / "network.safetensors")
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda name, pretrained: features)
    measure = models.LpipsMeasure(tmp_path / "network.safetensors")
    assert measure.kind == kind
    reference = lpips._LPIPS(net=kind, pnet_rand=True).eval()
    one, other = picture("one", (96, 72)), picture("other", (96, 72))
    tensors = [
        torch.from_numpy(np.array(image, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        for image in (one, other)
    ]
    with torch.inference_mode():
        expected = float(reference(*tensors))
    found = measure.compare(measure.describe(one), measure.describe(other))
    # float32, and another guard against division by zero (1e-8 under the root)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 0.01
    assert measure.compare(one, one) == 0
    assert measure.compare(one.resize((48, 36)), one) > 0
    with pytest.raises(UserError, match="too small for LPIPS"):
        measure.compare(one, one.resize((63, 64)))


def test_what_is_no_model_is_one_sentence(models, tmp_path, clip_folder):
    with pytest.raises(UserError, match=r"--dino=.*is no folder"):
        models.DinoMeasure(tmp_path / "absent")
    with pytest.raises(UserError, match=r"--clip=.*cannot be loaded by transformers"):
        models.ClipMeasure(tmp_path)
    save_file(
        {"features.0.weight": np.zeros((64, 3, 7, 7), np.float32)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(UserError, match="neither torchvision's AlexNet nor its VGG-16"):
        models.LpipsMeasure(tmp_path / "a.safetensors")
    (tmp_path / "alexnet.pth").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="is a pickle"):
        models.LpipsMeasure(tmp_path / "alexnet.pth")
    (clip_folder / "model.safetensors").rename(clip_folder / "model.away")
    try:
        (clip_folder / "pytorch_model.bin").write_bytes(b"\x80\x04")  # is not opened
        with pytest.raises(UserError, match="cannot be loaded by transformers"):
            models.ClipMeasure(clip_folder)
    finally:
        (clip_folder / "pytorch_model.bin").unlink()
        (clip_folder / "model.away").rename(clip_folder / "model.safetensors")
