"""FLUX.1 Fill on a tiny random pipeline of the real class."""

import shutil

import numpy as np
import pytest

from step1x_jax.curation.encoding import encode_mask
from step1x_jax.curation.operators.flux_fill import FluxFill
from step1x_jax.errors import UserError
from tests.curation.operators.tiny import CONTEXT, check_missing, decoded, encoded

pytestmark = pytest.mark.torch
SIZE = (70, 50)  # of a picture: not what the model can make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")
    from tests.curation.operators.tiny_diffusion import (
        CLIP_WIDTH,
        T5_WIDTH,
        autoencoder,
        clip_parts,
        t5_parts,
    )

    torch.manual_seed(0)
    # packed 2 x 2: of noise and picture 4 channels each, of the mask all 8 x 8 pixels
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16 + 16 + 256, out_channels=16, num_layers=1,
        num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=T5_WIDTH, pooled_projection_dim=CLIP_WIDTH, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    pipeline = diffusers.FluxFillPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(), autoencoder(),
        *clip_parts("CLIPTextModel"), *t5_parts(), transformer,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("flux") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


def stage(folder, **settings):
    made = FluxFill(model=str(folder), dtype="float32", size=64, steps=2, **settings)
    made.validate()
    return made


def row(**changes):
    mask = np.zeros(SIZE[::-1], bool)
    mask[10:40, 20:60] = True
    return {
        "id": "a",
        "source": encoded(0, SIZE),
        "mask": encode_mask(mask),
        "fill_prompt": "a red hat",
    } | changes


def test_candidates(folder):
    operator = stage(folder, count=2).open()
    one, other = operator([row()], CONTEXT)[0]
    source, mask = decoded(row()["source"]), decoded(row()["mask"]) > 0
    for made in (one, other):
        target = decoded(made["target"])
        assert target.shape == source.shape
        assert (target == source)[~mask].all()
        assert (target != source)[mask].mean() > 0.5
        assert made["method"] == "flux_fill"
    assert one["target"] != other["target"]
    # the same again, whatever else there is and however many
    rows = [row(fill_prompt="a cat"), row(source=b"x"), row()]
    prompted, bad, again = (list(made) for made in operator(rows, CONTEXT))
    assert again == [one, other]
    assert [made.reason for made in bad] == ["unreadable_picture"]
    assert prompted[0]["target"] != one["target"]
    assert [made["target"] for made in stage(folder).open()([row()], CONTEXT)[0]] == [one["target"]]


def test_the_dtype(folder):
    import torch

    pipeline = FluxFill(model=str(folder)).load_pipeline("FluxFillPipeline")
    parts = pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2
    assert {part.dtype for part in parts} == {torch.bfloat16}


@pytest.mark.parametrize(
    "file",
    [
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
    ],
)
def test_missing_weights(folder, tmp_path, file):
    copy = shutil.copytree(folder, tmp_path / "copy")
    check_missing(stage(copy), copy, file)


@pytest.mark.parametrize("change", [{"count": 0}, {"steps": 0}, {"size": 9}, {"dtype": "int8"}])
def test_settings_that_cannot_be(folder, change):
    (name,) = change
    with pytest.raises(UserError, match=name):
        FluxFill(**{"model": str(folder)} | change).validate()
