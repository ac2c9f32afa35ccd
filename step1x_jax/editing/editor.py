"""A loaded editor: pictures and instructions in, edited pictures out."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from PIL import Image

from step1x_jax.conditioning.encoder import Encoder
from step1x_jax.conditioning.images import from_array, image_size, to_array
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.embeddings import PATCH
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.sampler import (
    Conditions,
    noise_from_file,
    noise_from_seed,
    sample,
    sample_with_progress,
)
from step1x_jax.sampling.schedule import timesteps

# Pillow's filters as the two releases use them.
RESAMPLING = {"v1.0": Image.Resampling.BICUBIC, "v1.1": Image.Resampling.LANCZOS}

_encode = nnx.jit(Autoencoder.encode)
_decode = nnx.jit(Autoencoder.decode)


@dataclasses.dataclass
class Editor:
    """Model, autoencoder and encoder, ready to edit."""

    model: Step1XEdit
    autoencoder: Autoencoder
    encoder: Encoder
    sampling: SamplingConfig

    def edit(
        self,
        images: Sequence[Image.Image],
        instructions: Sequence[str],
        *,
        seed: int = 0,
        noise_file: epath.PathLike | None = None,
        show: Callable[[int, jax.Array], object] | None = None,
    ) -> list[Image.Image]:
        """Edits B pictures that share a size after resizing, as one batch.

        Args:
          images: RGB pictures.
          instructions: one each; an empty one is legal.
          seed: picture i gets the noise that it would get alone with seed + i.
          noise_file: a .npy file with the noise instead, see `noise_from_file`.
          show: called with the step's number and the latents (B, h, w, 16) after every step; given,
            the host drives the steps, otherwise they are one program.

        Returns:
          B pictures of the sizes that came in.

        Raises:
          UserError: something is no picture, the pictures do not share a size, or the noise file
            does not fit.
        """
        for image in images:
            if not isinstance(image, Image.Image):
                raise UserError(f"a picture is a {type(image).__name__}; give PIL images.")
        config = self.model.config
        resized = [self.resize(image) for image in images]
        reference = self.encode(resized)
        conditions = self._conditions(resized, instructions, reference)

        b, h, w, c = reference.shape
        if noise_file is None:
            noise = noise_from_seed(seed, (b, h, w, c))
        else:
            noise = noise_from_file(noise_file, (b, h, w, c))
        times = timesteps(self.sampling.num_steps, h * w // PATCH**2, self.sampling.shift)
        guidance = Guidance(self.sampling.guidance, self.sampling.truncate_for(config.version))
        if show is None:
            latents = sample(self.model, conditions, noise, times, guidance)
        else:
            latents = sample_with_progress(self.model, conditions, noise, times, guidance, show)
        return [
            edited.resize(image.size, RESAMPLING[config.version])
            for edited, image in zip(self.decode(latents), images, strict=True)
        ]

    def resize(self, image: Image.Image) -> Image.Image:
        """To the size at which it is edited, with the release's filter."""
        size = image_size(*image.size, self.sampling.size)
        return image.resize(size, RESAMPLING[self.model.config.version])

    def encode(self, images: Sequence[Image.Image]) -> jax.Array:
        """Pictures of one size to latents (B, h, w, 16) float32."""
        return _encode(self.autoencoder, jnp.stack([to_array(image) for image in images]))

    def decode(self, latents: jax.Array) -> list[Image.Image]:
        """Latents (B, h, w, 16) to pictures."""
        return [from_array(array) for array in np.asarray(_decode(self.autoencoder, latents))]

    def _conditions(
        self, images: Sequence[Image.Image], instructions: Sequence[str], reference: jax.Array
    ) -> Conditions:
        text, lengths = self.encoder.encode(
            [*images, *images], [*instructions, *[""] * len(images)]
        )
        b = len(images)
        return Conditions(
            reference=reference,
            text=jnp.asarray(text[:b]),
            text_lengths=jnp.asarray(lengths[:b]),
            negative_text=jnp.asarray(text[b:]),
            negative_lengths=jnp.asarray(lengths[b:]),
        )
