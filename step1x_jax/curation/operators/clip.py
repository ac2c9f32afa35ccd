"""CLIP: embeddings of pictures and texts in one space, and how alike they are.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
arXiv 2103.00020. The class is transformers' CLIPModel, such as openai/clip-vit-large-patch14.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.models import DECIMALS, ModelStage
from step1x_jax.curation.operators.pictures import on_pictures
from step1x_jax.curation.stages.filters import PAIR


class Clip:
    """The model with its picture processor and tokenizer."""

    def __init__(self, stage: ModelStage, texts: bool):
        """Load it.

        Args:
          stage: that names the model.
          texts: whether texts are embedded, too.

        Raises:
          UserError: see `ModelStage.load_model`.
        """
        self._model = stage.load_model("CLIPModel")
        self._pictures = stage.load("transformers", "CLIPImageProcessorPil")
        self._texts = stage.load("transformers", "AutoTokenizer") if texts else None

    @property
    def width(self) -> int:
        """Of embeddings."""
        return self._model.config.projection_dim

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N, width) float32 of length 1."""
        inputs = self._pictures(images=list(pictures), return_tensors="pt")
        return self._embed(self._model.get_image_features, inputs)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, width) float32 of length 1; of a text the first 77 tokens count."""
        assert self._texts is not None
        longest = self._model.config.text_config.max_position_embeddings
        inputs = self._texts(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return self._embed(self._model.get_text_features, inputs)

    def _embed(self, embed: Any, inputs: Any) -> np.ndarray:
        import torch

        with torch.inference_mode():
            found = embed(**inputs.to(self._model.device)).pooler_output
        return normalize(found.cpu().numpy())


def normalize(vectors: np.ndarray) -> np.ndarray:
    """(..., C) of length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


@dataclasses.dataclass
class ClipScores(ModelStage):
    """How alike source and target are, and whether the change goes where its description goes.

    clip_image is the cosine of the pictures' embeddings. clip_direction is the cosine of two
    differences, of the pictures' embeddings and of their captions' (Gal et al., StyleGAN-NADA,
    arXiv 2108.00946, equation 2); none without captions. Both are -1 to 1.
    """

    reads: ClassVar = {**PAIR, "source_caption": str, "target_caption": str}
    optional: ClassVar = ("source_caption", "target_caption")
    writes: ClassVar = {"clip_image": float, "clip_direction": float}
    batch: ClassVar = 16

    def open(self) -> Operator:
        """See `Stage`."""
        clip = Clip(self, texts=True)

        def score(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, float | None]]:
            sources, targets = (clip.embed_pictures(one) for one in zip(*pictures, strict=True))
            before, after = (
                clip.embed_texts([row[name] or "" for row in rows]) for name in self.optional
            )
            image = np.sum(sources * targets, axis=-1)
            direction = np.sum(normalize(targets - sources) * normalize(after - before), axis=-1)
            return [
                {
                    "clip_image": round(float(image[i]), DECIMALS),
                    "clip_direction": round(float(direction[i]), DECIMALS)
                    if all(row[name] for name in self.optional)
                    else None,
                }
                for i, row in enumerate(rows)
            ]

        return on_pictures(("source", "target"), score)
