"""Stable Diffusion 3.5 with a ControlNet: another surface or style on the same shapes.

The classes are diffusers' StableDiffusion3ControlNetPipeline and SD3ControlNetModel, such as
stabilityai/stable-diffusion-3.5-large with stabilityai/stable-diffusion-3.5-large-controlnet-depth
or -canny.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.curation.engine.rows import ID, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.candidates import COLUMNS
from step1x_jax.curation.operators.diffusion import DiffusionStage
from step1x_jax.curation.operators.models import ModelStage
from step1x_jax.errors import require

CONTROLS = ("depth", "edges")
WEAK, STRONG = 100, 200  # thresholds of Canny's detector, for bytes


@dataclasses.dataclass
class Sd3ControlNet(DiffusionStage):
    """Candidates of what `target_prompt` says, in the shapes of the source.

    With a mask all outside of it stays the source's, exactly; without one everything is made anew.

    Attributes:
      controlnet: id or folder, as `model`.
      controlnet_revision: as `revision`.
      control: what holds the shapes: depth, of the column that `Depth` writes, or edges.
      strength: of the control.
    """

    guidance: float = 4.5
    controlnet: str = ""
    controlnet_revision: str = ""
    control: str = "edges"
    strength: float = 1.0

    version: ClassVar = 2
    reads: ClassVar = {"source": bytes, "target_prompt": str, "mask": bytes, "depth": bytes}
    optional: ClassVar = ("mask", "depth")
    writes: ClassVar = COLUMNS
    aside: ClassVar[Sequence[str]] = (
        *DiffusionStage.aside,
        "controlnet",
        "controlnet_revision",
    )
    parts: ClassVar = {
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_3": ("transformers", "T5EncoderModel"),
        "transformer": ("diffusers", "SD3Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }

    @property
    def _controlnet(self) -> ModelStage:
        return ModelStage(self.controlnet, self.controlnet_revision)

    def validate(self) -> None:
        """See `Stage`."""
        super().validate()
        self._controlnet.validate()
        known = ", ".join(CONTROLS)
        require(self.control in CONTROLS, "control", self.control, f"give one of {known}")
        require(0 < self.strength <= 10, "strength", self.strength, "give more than 0, up to 10")

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        return {"model": super().identity(), "controlnet": self._controlnet.identity()}

    def open(self) -> Operator:
        """See `Stage`."""
        controlnet = self._controlnet.load_model("SD3ControlNetModel", "diffusers", self.dtype)
        pipeline = self.load_pipeline("StableDiffusion3ControlNetPipeline", controlnet=controlnet)
        return self.candidates(pipeline, f"sd3_controlnet_{self.control}")

    def make(
        self, pipeline: Any, row: Row, pictures: Sequence[Image.Image], **arguments: Any
    ) -> Image.Image:
        """See `DiffusionStage`."""
        (source,) = pictures
        size = arguments["width"], arguments["height"]
        edges = self.control == "edges"
        shapes = find_edges(source) if edges else show_depth(row["depth"])
        (made,) = pipeline(
            prompt=row["target_prompt"],
            control_image=_scaled(shapes.resize(size, Image.Resampling.LANCZOS), edges),
            controlnet_conditioning_scale=self.strength,
            **arguments,
        ).images
        made = made.resize(source.size, Image.Resampling.LANCZOS)
        if not row["mask"]:
            return made
        mask = decode_image(row["mask"], f"mask of {row[ID]}").convert("L").resize(source.size)
        return Image.composite(made, source, mask.point(lambda value: 255 * (value > 127)))


def _scaled(shapes: Image.Image, edges: bool) -> Any:
    """(1, 3, h, w) float32, a torch tensor: what the ControlNet is given, as it was in training.

    -1 to 1, but edges 0.5 to 128: so Stability's own code (sd3_infer.py, vae_encode) gives them to
    its model. A pipeline that is given pictures makes -1 to 1 of them, whatever they are.
    """
    import torch

    pixels = np.asarray(shapes, np.float32).transpose(2, 0, 1)[None] / 255
    return torch.from_numpy(pixels * 127.5 + 0.5 if edges else pixels * 2 - 1)


def find_edges(picture: Image.Image) -> Image.Image:
    """White lines on black, RGB."""
    from step1x_jax.curation.embedded.opencv import cv2

    edges = cv2.Canny(np.asarray(picture.convert("L")), WEAK, STRONG)
    return Image.fromarray(edges).convert("RGB")


def show_depth(data: bytes) -> Image.Image:
    """RGB, white where the picture is nearest and black where it is farthest, even in 1 / depth.

    So are the maps of MiDaS. We found no word of Stability's on the maps that its model wants.

    Args:
      data: a PNG file of millimetres, as `Depth` writes it.
    """
    depth = np.asarray(Image.open(io.BytesIO(data)), np.float64)
    near = 1 / np.maximum(depth, 1)
    near = (near - near.min()) / max(float(np.ptp(near)), 1e-12)
    return Image.fromarray(np.rint(near * 255).astype(np.uint8)).convert("RGB")
