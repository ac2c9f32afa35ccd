"""Stable Diffusion 3.5 with a ControlNet, on a tiny random pipeline of the real classes."""

import shutil

import numpy as np
import pytest

from step1x_jax.conditioning.images import image_size
from step1x_jax.curation.encoding import encode_mask, encode_png
from step1x_jax.curation.operators.sd3_controlnet import Sd3ControlNet, find_edges, show_depth
from step1x_jax.errors import UserError
from tests.curation.operators.tiny import CONTEXT, check_missing, decoded, encoded

pytestmark = [pytest.mark.torch, pytest.mark.curation]
SIZE = (70, 50)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of the pipeline without its ControlNet, as it is published, and of that."""
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")
    from tests.curation.operators.tiny_diffusion import (
        CLIP_WIDTH,
        autoencoder,
        clip_parts,
        t5_parts,
    )

    torch.manual_seed(0)
    shape = {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 2 * CLIP_WIDTH,
        "caption_projection_dim": 16, "pooled_projection_dim": 2 * CLIP_WIDTH, "out_channels": 4,
    }  # fmt: skip
    pipeline = diffusers.StableDiffusion3Pipeline(
        diffusers.SD3Transformer2DModel(**shape), diffusers.FlowMatchEulerDiscreteScheduler(),
        autoencoder(), *clip_parts("CLIPTextModelWithProjection"),
        *clip_parts("CLIPTextModelWithProjection"), *t5_parts(2 * CLIP_WIDTH),
    )  # fmt: skip
    controlnet = diffusers.SD3ControlNetModel(**shape)
    for parameter in controlnet.parameters():  # else it adds zeros, as at the start of training
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    folder = tmp_path_factory.mktemp("sd3")
    pipeline.save_pretrained(folder / "base")
    controlnet.save_pretrained(folder / "controlnet")
    return folder / "base", folder / "controlnet"


def stage(folders, **settings):
    base, controlnet = map(str, folders)
    common = {"dtype": "float32", "size": 64, "steps": 2}
    made = Sd3ControlNet(model=base, controlnet=controlnet, **common | settings)
    made.validate()
    return made


def row(**changes):
    depth = np.linspace(500, 5000, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(np.uint16)
    return {
        "id": "a", "source": encoded(0, SIZE), "mask": None, "depth": encode_png(depth),
        "target_prompt": "a car of wood",
    } | changes  # fmt: skip


def targets(stage, *rows):
    return [[decoded(one["target"]) for one in made] for made in stage.open()(rows, CONTEXT)]


def test_candidates(folders):
    mask = np.zeros(SIZE[::-1], bool)
    mask[10:40, 20:60] = True
    masked = row(mask=encode_mask(mask))
    (one, other), (inside, _) = targets(stage(folders, count=2), row(), masked)
    source = decoded(row()["source"])
    assert one.shape == source.shape
    assert (one != other).any()
    assert (inside == source)[~mask].all()
    assert (inside == one)[mask].all()
    (again,), (worded,) = targets(stage(folders), row(), row(target_prompt="a cat"))
    assert (again == one).all()
    assert (worded != one).any()


def test_the_control_counts(folders):
    ((plain,),) = targets(stage(folders, control="depth"), row())
    ((weaker,),) = targets(stage(folders, control="depth", strength=0.1), row())
    flat = encode_png(np.full(SIZE[::-1], 900, np.uint16))
    ((flattened,),) = targets(stage(folders, control="depth"), row(depth=flat))
    assert (plain != weaker).any()
    assert (plain != flattened).any()


def test_edges_are_given_as_the_model_knows_them(folders):
    """As in the description of Stability's model: its own processor in a pipeline of diffusers."""
    import torch
    from diffusers import SD3ControlNetModel, StableDiffusion3ControlNetPipeline
    from diffusers.image_processor import VaeImageProcessor
    from PIL import Image

    class Processor(VaeImageProcessor):
        def __init__(self):
            super().__init__(do_normalize=False)

        def preprocess(self, image, **settings):
            return super().preprocess(image, **settings) * 255 * 0.5 + 0.5

        def postprocess(self, image, do_denormalize=None, **settings):
            return super().postprocess(image, do_denormalize=[True] * len(image), **settings)

    (made,) = next(iter(stage(folders).open()([row()], CONTEXT)))
    base, controlnet = folders
    pipeline = StableDiffusion3ControlNetPipeline.from_pretrained(
        base, controlnet=SD3ControlNetModel.from_pretrained(controlnet)
    )
    pipeline.image_processor = Processor()
    source = Image.fromarray(decoded(row()["source"]))
    size = image_size(*SIZE, 64)
    torch.manual_seed(int(made["seed"]))
    (expected,) = pipeline(
        row()["target_prompt"],
        control_image=find_edges(source).resize(size, Image.Resampling.LANCZOS),
        num_inference_steps=2,
        guidance_scale=4.5,
        width=size[0],
        height=size[1],
        generator=torch.Generator().manual_seed(int(made["seed"])),
    ).images
    np.testing.assert_array_equal(
        decoded(made["target"]), expected.resize(SIZE, Image.Resampling.LANCZOS)
    )


def test_controls():
    depth = encode_png(np.array([[1000, 2000], [4000, 0]], np.uint16))
    near = np.asarray(show_depth(depth))[..., 0]
    assert near.tolist() == [[0, 0], [0, 255]]  # what touches the camera leaves nothing for others
    near = np.asarray(show_depth(encode_png(np.array([[1000, 2000, 4000]], np.uint16))))[..., 0]
    assert near.tolist() == [[255, 85, 0]]  # 1, 1/2 and 1/4


def test_edges():
    from PIL import Image

    picture = Image.new("RGB", (40, 30))
    picture.paste((255, 255, 255), (20, 0, 40, 30))
    edges = np.asarray(find_edges(picture))[..., 0]
    assert set(np.flatnonzero(edges.any(axis=0))) <= {19, 20}
    assert edges.max() == 255


def test_fingerprints_and_settings(folders, tmp_path):
    base, controlnet = folders
    copy = shutil.copytree(controlnet, tmp_path / "controlnet")
    moved = stage((base, copy))
    assert moved.fingerprint() == stage(folders).fingerprint()
    check_missing(moved, copy, "diffusion_pytorch_model.safetensors")
    for change, message in [
        ({"control": "pose"}, "control"),
        ({"strength": 0.0}, "strength"),
        ({"controlnet": "stabilityai/x"}, "revision of stabilityai/x"),
    ]:
        with pytest.raises(UserError, match=message):
            Sd3ControlNet(**{"model": str(base), "controlnet": str(controlnet)} | change).validate()


def test_missing_weights(folders, tmp_path):
    copy = shutil.copytree(folders[0], tmp_path / "base")
    moved = stage((copy, folders[1]))
    check_missing(moved, copy, "transformer/diffusion_pytorch_model.safetensors")
