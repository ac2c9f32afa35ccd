"""CLIP's scores, against the model's own forward, on a tiny random CLIPModel."""

import itertools
import shutil
import string

import numpy as np
import pytest
from safetensors.numpy import save_file

from step1x_jax.curation.operators.aesthetics import Aesthetics
from step1x_jax.curation.operators.clip import ClipScores
from step1x_jax.errors import UserError
from tests.curation.operators.tiny import check_batches, check_missing, decoded, encoded

pytestmark = pytest.mark.torch
WIDTH = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip") / "tiny"
    letters = [*string.ascii_lowercase, *(f"{c}</w>" for c in string.ascii_lowercase)]
    names = ["<|startoftext|>", "<|endoftext|>", *letters]
    CLIPTokenizer({name: i for i, name in enumerate(names)}, []).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2, "projection_dim": WIDTH}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = small | ids | {"vocab_size": len(names), "max_position_embeddings": 20}
    vision = small | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder


def rows():
    captions = [("a cat", "a dog on a mat"), ("a hat", ""), ("x " * 40, "y " * 40)]
    return [
        {
            "id": str(i),
            "source": encoded(i),
            "target": encoded(i + 10, (30, 50)),
            "source_caption": before,
            "target_caption": after,
        }
        for i, (before, after) in enumerate(captions)
    ]


def cosine(a, b):
    return float(a @ b / np.sqrt(a @ a * (b @ b)))


def test_scores_are_those_of_the_model(folder):
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    made = check_batches(ClipScores(model=str(folder)), rows())
    model = CLIPModel.from_pretrained(folder).eval()
    pictures = CLIPImageProcessorPil.from_pretrained(folder)
    words = AutoTokenizer.from_pretrained(folder)
    for row, scores in zip(rows(), made, strict=True):
        both = [decoded(row[name]) for name in ("source", "target")]
        texts = [row[name] for name in ("source_caption", "target_caption")]
        inputs = words(texts, padding=True, truncation=True, max_length=20, return_tensors="pt")
        with torch.inference_mode():
            out = model(**inputs, **pictures(images=both, return_tensors="pt"))
        before, after = out.image_embeds.numpy()
        assert scores["clip_image"] == pytest.approx(cosine(before, after), abs=1e-4)  # 4 decimals
        if not row["target_caption"]:
            assert scores["clip_direction"] is None
            continue
        said = np.diff(out.text_embeds.numpy(), axis=0)[0]
        assert scores["clip_direction"] == pytest.approx(cosine(after - before, said), abs=2e-4)


def write_head(path, sizes=(WIDTH, 8, 1), first=0):
    """LAION's form: layers.0, layers.2, ..., 10 among them to be sorted by number."""
    rng = np.random.default_rng(1)
    tensors = {}
    for i, (count, out) in enumerate(itertools.pairwise(sizes)):
        name = f"layers.{2 + first * i}"
        tensors[f"{name}.weight"] = rng.normal(size=(out, count)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(size=out).astype(np.float32)
    save_file(tensors, path)
    return tensors


def test_aesthetics(folder, tmp_path):
    tensors = write_head(tmp_path / "head.safetensors", first=8)
    stage = Aesthetics(model=str(folder), head=str(tmp_path / "head.safetensors"))
    stage.validate()
    pictures = [{"id": str(i), "picture": encoded(i)} for i in range(3)]
    made = check_batches(stage, pictures)

    from transformers import CLIPImageProcessorPil, CLIPModel

    inputs = CLIPImageProcessorPil.from_pretrained(folder)(
        images=[decoded(row["picture"]) for row in pictures], return_tensors="pt"
    )
    model = CLIPModel.from_pretrained(folder).eval()
    found = model.get_image_features(**inputs).pooler_output.detach().numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    hidden = found @ tensors["layers.2.weight"].T + tensors["layers.2.bias"]
    score = hidden @ tensors["layers.10.weight"].T + tensors["layers.10.bias"]
    np.testing.assert_allclose([one["aesthetics"] for one in made], score[:, 0], atol=1e-4)

    before = stage.fingerprint()
    stage.head = str((tmp_path / "head.safetensors").rename(tmp_path / "moved.safetensors"))
    assert stage.fingerprint() == before
    write_head(tmp_path / "moved.safetensors", (WIDTH, 4, 1), first=8)
    assert stage.fingerprint() != before


@pytest.mark.parametrize("sizes", [(WIDTH + 1, 1), (WIDTH, 2), (WIDTH,)])
def test_heads_that_do_not_fit(folder, tmp_path, sizes):
    write_head(tmp_path / "head.safetensors", sizes)
    stage = Aesthetics(model=str(folder), head=str(tmp_path / "head.safetensors"))
    with pytest.raises(UserError, match="head"):
        stage.open()


def test_missing_weights(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    stage, moved = ClipScores(model=str(folder)), ClipScores(model=str(copy))
    assert stage.fingerprint() == moved.fingerprint()  # where it is does not count
    check_missing(moved, copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded as CLIPModel"):
        ClipScores(model=str(tmp_path / "empty")).open()
