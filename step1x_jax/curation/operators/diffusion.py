"""What generators of the diffusers library have in common: settings, sizes, candidates."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from PIL import Image

from step1x_jax.conditioning.images import decode_image, image_size
from step1x_jax.curation.engine.rows import ID, Context, Outcome, Rejected, Row
from step1x_jax.curation.engine.stage import Operator, each
from step1x_jax.curation.operators.candidates import check_count, make_candidates
from step1x_jax.curation.operators.models import ModelStage, device
from step1x_jax.errors import UserError, require

DTYPES = ("bfloat16", "float16", "float32")


@dataclasses.dataclass
class DiffusionStage(ModelStage):
    """A pipeline of diffusers that makes candidates of an edit.

    Attributes:
      count: candidates of each row.
      steps: of the sampler.
      guidance: its scale.
      size: about size^2 pixels are made, in the source's shape; they are then resized to it.
      dtype: of the models.
      pictures: columns that are decoded, the source first.
      parts: of the pipeline that have weights: name -> library and class.
    """

    count: int = 1
    steps: int = 50
    guidance: float = 30.0
    size: int = 1024
    dtype: str = "bfloat16"

    many: ClassVar = True
    pictures: ClassVar[Sequence[str]] = ("source",)
    parts: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def validate(self) -> None:
        """See `Stage`."""
        super().validate()
        check_count(self.count)
        require(1 <= self.steps <= 1000, "steps", self.steps, "give 1 to 1000")
        require(32 <= self.size <= 4096, "size", self.size, "give 32 to 4096")
        require(self.dtype in DTYPES, "dtype", self.dtype, f"give one of {', '.join(DTYPES)}")

    def load_pipeline(self, kind: str, **others: Any) -> Any:
        """The pipeline, on the device; whatever of it has weights is checked.

        Args:
          kind: its class.
          others: parts that are loaded already.

        Raises:
          UserError: see `ModelStage.load_model`.
        """
        models = {
            name: self.load_model(part, library, self.dtype, subfolder=name)
            for name, (library, part) in self.parts.items()
        }
        pipeline = self.load("diffusers", kind, **models, **others).to(device())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def make(
        self, pipeline: Any, row: Row, pictures: Sequence[Image.Image], **arguments: Any
    ) -> Image.Image:
        """One candidate, of the source's size.

        Args:
          pipeline: as loaded.
          row: with the prompt.
          pictures: of the columns `pictures`.
          arguments: of the pipeline's call: generator, number of steps, guidance, width, height.
        """
        raise NotImplementedError

    def candidates(self, pipeline: Any, method: str) -> Operator:
        """The stage's operator.

        Args:
          pipeline: of `load_pipeline`.
          method: what the column of this name begins with; the model's id follows.
        """
        if self.folder is None:
            method = f"{method}/{self.model}@{self.revision}"

        def generate(row: Row, context: Context) -> Iterator[Outcome]:
            import torch

            try:
                pictures = [
                    decode_image(row[name], f"{name} of {row[ID]}") for name in self.pictures
                ]
            except UserError as e:
                yield Rejected("unreadable_picture", str(e))
                return
            width, height = image_size(*pictures[0].size, self.size)

            def make(seed: int) -> Image.Image:
                # Some pipelines draw numbers besides those of the generator that they are given.
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    return self.make(
                        pipeline,
                        row,
                        pictures,
                        # on the CPU, so that the noise is the same everywhere
                        generator=torch.Generator("cpu").manual_seed(seed),
                        num_inference_steps=self.steps,
                        guidance_scale=self.guidance,
                        width=width,
                        height=height,
                    )

            yield from make_candidates(row, context, self.count, method, make)

        return each(generate)
