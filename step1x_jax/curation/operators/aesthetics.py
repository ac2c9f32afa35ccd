"""How much people would like a picture: a small head on CLIP's embeddings."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.clip import Clip
from step1x_jax.curation.operators.models import DECIMALS, ModelStage
from step1x_jax.curation.operators.pictures import on_pictures
from step1x_jax.errors import UserError, require
from step1x_jax.files import fingerprint, user_path


@dataclasses.dataclass
class Aesthetics(ModelStage):
    """A score of the photograph, on the scale of the head: LAION's give about 1 to 10.

    Attributes:
      head: a safetensors file of linear layers, one after another, as LAION's predictors have them:
        tensors NAME.weight (out, in) and NAME.bias (out,), the numbers in their names in order.
    """

    head: str = ""

    reads: ClassVar = {"picture": bytes}
    writes: ClassVar = {"aesthetics": float}
    aside: ClassVar[Sequence[str]] = (*ModelStage.aside, "head")
    batch: ClassVar = 32

    def validate(self) -> None:
        """See `Stage`."""
        super().validate()
        require(bool(self.head), "head", self.head, "give the safetensors file of the head")

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        return {"clip": super().identity(), "head": fingerprint(user_path(self.head))}

    def open(self) -> Operator:
        """See `Stage`."""
        clip = Clip(self, texts=False)
        layers = read_head(self.head, clip.width)

        def score(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, float]]:
            values = clip.embed_pictures([one for (one,) in pictures])
            for weight, bias in layers:
                values = values @ weight.T + bias
            return [{"aesthetics": round(float(value), DECIMALS)} for (value,) in values]

        return on_pictures(("picture",), score)


def read_head(path: str, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight (out, in) and bias (out,) of each layer, float32, from embeddings to one number.

    Args:
      path: of the safetensors file.
      width: of the embeddings.

    Raises:
      UserError: it cannot be read, or is no such head.
    """
    try:
        tensors = load_file(user_path(path))
    except Exception as e:  # of many kinds
        raise UserError(
            f"{path} cannot be read as safetensors ({e}); give the file of an aesthetics head."
        ) from e
    names = [name.removesuffix("weight") for name in tensors if name.endswith("weight")]
    names.sort(key=lambda name: [int(number) for number in re.findall(r"[0-9]+", name)])
    layers, sizes = [], [width]
    for name in names:
        weight, bias = tensors[f"{name}weight"], tensors.get(f"{name}bias")
        fits = bias is not None and weight.ndim == 2 and weight.shape[1] == sizes[-1]
        if bias is None or not fits or bias.shape != weight.shape[:1]:
            raise UserError(
                f"{path} does not fit the model: {name}weight is {list(weight.shape)} after"
                f" {sizes[-1]} numbers; give a head that was made for this CLIP."
            )
        layers.append((weight.astype(np.float32), bias.astype(np.float32)))
        sizes.append(weight.shape[0])
    if not layers or sizes[-1] != 1:
        raise UserError(f"{path} does not end in one number; give the file of an aesthetics head.")
    return layers
