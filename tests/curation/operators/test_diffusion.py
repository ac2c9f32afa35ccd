"""What pipelines are asked for, and what becomes of what they make: one that paints all red."""

import types

import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.images import image_size
from step1x_jax.curation.encoding import encode_png
from step1x_jax.curation.operators.flux_fill import FluxFill
from step1x_jax.curation.operators.sd3_controlnet import Sd3ControlNet
from tests.curation.operators.tiny import CONTEXT, decoded, encoded

pytestmark = pytest.mark.torch
SIZE = (70, 50)
RED = (200, 10, 10)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs the extra [torch]")


class Painter:
    """Notes what it is asked, and a number that it draws without being given a generator."""

    def __init__(self, torch):
        self.torch, self.asked, self.drawn = torch, [], []

    def __call__(self, **asked):
        self.asked.append(asked)
        self.drawn.append(self.torch.rand(1))
        return types.SimpleNamespace(
            images=[Image.new("RGB", (asked["width"], asked["height"]), RED)]
        )


def row():
    """Its mask is of half the size: between black and white it is enlarged to greys."""
    mask = np.zeros((SIZE[1] // 2, SIZE[0] // 2), np.uint8)
    mask[5:20, 8:30] = 255
    return {
        "id": "a",
        "source": encoded(0, SIZE),
        "mask": encode_png(mask),
        "fill_prompt": "a red hat",
        "target_prompt": "a red hat",
        "depth": encode_png(np.full(SIZE[::-1], 900, np.uint16)),
    }


def stages():
    common = {"model": "who/what", "revision": "a" * 40, "count": 2, "steps": 7, "guidance": 3.5}
    return [
        FluxFill(**common, size=64),
        Sd3ControlNet(
            **common, size=64, controlnet="who/else", controlnet_revision="b" * 40, control="depth"
        ),
    ]


@pytest.mark.parametrize("stage", stages(), ids=["flux_fill", "sd3_controlnet"])
def test_candidates(stage, torch):
    stage.validate()
    painter = Painter(torch)
    before = torch.random.get_rng_state()
    (made,) = map(list, stage.candidates(painter, "red")([row()], CONTEXT))
    assert (torch.random.get_rng_state() == before).all()
    assert {one["method"] for one in made} == {f"red/who/what@{'a' * 40}"}
    source = decoded(row()["source"])
    for asked, drawn, one in zip(painter.asked, painter.drawn, made, strict=True):
        assert asked["prompt"] == "a red hat"
        assert (asked["num_inference_steps"], asked["guidance_scale"]) == (7, 3.5)
        assert (asked["width"], asked["height"]) == image_size(*SIZE, 64)
        seed = int(one["seed"])
        assert asked["generator"].initial_seed() == seed
        assert drawn == torch.rand(1, generator=torch.Generator().manual_seed(seed))
        red = (decoded(one["target"]) == RED).all(axis=-1)
        assert (red | (decoded(one["target"]) == source).all(axis=-1)).all()  # and nothing between
        assert red.mean() == pytest.approx(15 * 22 / (25 * 35), abs=0.02)
