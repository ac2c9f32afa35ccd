"""FLUX.1 Fill: paints what a text says into a mask.

The class is diffusers' FluxFillPipeline, such as black-forest-labs/FLUX.1-Fill-dev, whose licence
has terms for what is made with it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from step1x_jax.curation.engine.rows import Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.candidates import COLUMNS
from step1x_jax.curation.operators.diffusion import DiffusionStage


@dataclasses.dataclass
class FluxFill(DiffusionStage):
    """Candidates whose pixels outside of the mask are the source's, exactly.

    It reads `fill_prompt`, what is to be seen in the mask, and `mask`, white there.
    """

    reads: ClassVar = {"source": bytes, "mask": bytes, "fill_prompt": str}
    writes: ClassVar = COLUMNS
    pictures: ClassVar[Sequence[str]] = ("source", "mask")
    parts: ClassVar = {
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }

    def open(self) -> Operator:
        """See `Stage`."""
        return self.candidates(self.load_pipeline("FluxFillPipeline"), "flux_fill")

    def make(
        self, pipeline: Any, row: Row, pictures: Sequence[Image.Image], **arguments: Any
    ) -> Image.Image:
        """See `DiffusionStage`."""
        source, mask = pictures
        mask = mask.convert("L").resize(source.size).point(lambda value: 255 * (value > 127))
        size = arguments["width"], arguments["height"]
        (made,) = pipeline(
            prompt=row["fill_prompt"],
            image=source.resize(size, Image.Resampling.LANCZOS),
            mask_image=mask.resize(size, Image.Resampling.NEAREST),
            **arguments,
        ).images
        return Image.composite(made.resize(source.size, Image.Resampling.LANCZOS), source, mask)
