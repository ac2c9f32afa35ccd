"""A loaded editor: pictures and instructions in, edited pictures out."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from PIL import Image

from step1x_jax.conditioning.colours import to_srgb
from step1x_jax.conditioning.encoder import Encoder, PictureTakesAllTokens
from step1x_jax.conditioning.images import from_array, image_size, to_array
from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.embeddings import PATCH
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.noise import noise_from_file, noise_from_seed
from step1x_jax.sampling.sampler import Conditions, sample, sample_with_progress
from step1x_jax.sampling.schedule import timesteps

# Pillow's filters on the way in, as the two releases use them; both go back with BICUBIC.
RESAMPLING = {"v1.0": Image.Resampling.BICUBIC, "v1.1": Image.Resampling.LANCZOS}
RESAMPLING_BACK = Image.Resampling.BICUBIC

_encode = nnx.jit(Autoencoder.encode)
_decode = nnx.jit(Autoencoder.decode)


@dataclasses.dataclass(repr=False)
class Editor:
    """Model, autoencoder and encoder, ready to edit."""

    model: Step1XEdit
    autoencoder: Autoencoder
    encoder: Encoder
    sampling: SamplingConfig

    def __repr__(self) -> str:
        s = self.sampling
        return (
            f"Editor({self.model.config.version}, size={s.size}, steps={s.num_steps},"
            f" guidance={s.guidance})"
        )

    def edit(
        self,
        images: Image.Image | Sequence[Image.Image],
        instructions: str | Sequence[str],
        *,
        seed: int = 0,
        noise_file: epath.PathLike | None = None,
        show: Callable[[int, jax.Array], object] | None = None,
    ) -> list[Image.Image]:
        """Edits B pictures that share a size after resizing, as one batch.

        Args:
          images: of any kind that `to_srgb` takes; one picture may stand without a list.
          instructions: one each; an empty one is legal. For one picture it may stand without a
            list.
          seed: 0 to 2^64 - 1; picture i gets the noise that it would get alone with seed + i.
          noise_file: a .npy file with the noise instead, see `noise_from_file`.
          show: called with the step's number and the latents (B, h, w, 16) after every step; given,
            the host drives the steps, otherwise they are one program.

        Returns:
          B pictures of the sizes that came in (turned upright, if they were not), in sRGB.

        Raises:
          UserError: something is no picture, pictures and instructions are not as many, the
            pictures do not share a size, the seed or the noise file does not fit, or a value on the
            way is not finite.
        """
        pictures, texts = _pairs(images, instructions)
        pictures = [to_srgb(image, f"picture {i}") for i, image in enumerate(pictures)]
        config, sampling = self.model.config, self.sampling
        sampling.validate()
        width, height = self._common_size(pictures)

        # All that can be wrong in what was given is found before the models run.
        latent = 2 ** (len(self.autoencoder.config.ch_mult) - 1)  # pixels along one side
        h, w = height // latent, width // latent
        shape = (len(pictures), h, w, self.autoencoder.config.z_channels)
        if noise_file is None:
            noise = noise_from_seed(seed, shape)
        else:
            noise = noise_from_file(noise_file, shape)

        resized = [self.resize(image) for image in pictures]
        conditions = self._conditions(resized, texts)
        times = timesteps(sampling.num_steps, h * w // PATCH**2, sampling.shift)
        guidance = Guidance(sampling.guidance, sampling.truncate_for(config.version))
        if show is None:
            latents = sample(self.model, conditions, noise, times, guidance)
        else:
            latents = sample_with_progress(self.model, conditions, noise, times, guidance, show)
        check_finite(latents, "the model's result", "a smaller guidance, or other weights")
        return [
            edited.resize(image.size, RESAMPLING_BACK)
            for edited, image in zip(self.decode(latents), pictures, strict=True)
        ]

    def _common_size(self, images: Sequence[Image.Image]) -> tuple[int, int]:
        """Width and height at which all are edited."""
        sizes = [image_size(*image.size, self.sampling.size) for image in images]
        for image, size in zip(images, sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"pictures of {images[0].width}x{images[0].height} and"
                    f" {image.width}x{image.height} pixels are edited at different sizes; edit them"
                    " one after another."
                )
        return sizes[0]

    def resize(self, image: Image.Image) -> Image.Image:
        """To the size at which it is edited, with the release's filter."""
        size = image_size(*image.size, self.sampling.size)
        return image.resize(size, RESAMPLING[self.model.config.version])

    def encode(self, images: Sequence[Image.Image]) -> jax.Array:
        """Pictures of one size to latents (B, h, w, 16) float32."""
        return _encode(self.autoencoder, jnp.stack([to_array(image) for image in images]))

    def decode(self, latents: jax.Array) -> list[Image.Image]:
        """Latents (B, h, w, 16) to pictures; UserError if they are not finite."""
        arrays = np.asarray(_decode(self.autoencoder, latents))
        check_finite(arrays, "what the autoencoder decodes", "another autoencoder")
        return [from_array(array) for array in arrays]

    def _conditions(self, images: Sequence[Image.Image], instructions: Sequence[str]) -> Conditions:
        try:
            text, lengths = self.encoder.encode(
                [*images, *images], [*instructions, *[""] * len(images)]
            )
        except PictureTakesAllTokens as e:
            raise UserError(
                f"at size {self.sampling.size} the picture alone takes {e.tokens} of the"
                f" {e.text_length} tokens that this model reads; leave the size to the model, or"
                " give a smaller one."
            ) from e
        check_finite(text, "what the language model makes of the instruction", "other weights")
        reference = self.encode(images)
        check_finite(reference, "what the autoencoder makes of the picture", "another autoencoder")
        b = len(images)
        return Conditions(
            reference=reference,
            text=jnp.asarray(text[:b]),
            text_lengths=jnp.asarray(lengths[:b]),
            negative_text=jnp.asarray(text[b:]),
            negative_lengths=jnp.asarray(lengths[b:]),
        )


def _pairs(images: object, instructions: object) -> tuple[list[Image.Image], list[str]]:
    """One instruction for each picture, as lists; refuses all that could mean something else."""
    alone = isinstance(images, Image.Image | str)
    pictures: list[Any] = [images] if alone else _as_list(images, "pictures")
    if not pictures:
        raise UserError("there is no picture; give one or more.")
    for image in pictures:
        if not isinstance(image, Image.Image):
            raise UserError(f"a picture is a {type(image).__name__}; give PIL images.")
    alone = isinstance(instructions, str)
    texts: list[Any] = [instructions] if alone else _as_list(instructions, "instructions")
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"an instruction is a {type(text).__name__}; give text.")
        check_instruction(text)
    if len(texts) != len(pictures):
        raise UserError(
            f"there are {len(texts)} instructions for {len(pictures)} pictures; give one for each."
        )
    return pictures, texts


def _as_list(values: object, what: str) -> list[Any]:
    if isinstance(values, bytes | dict | set) or not isinstance(values, Iterable):
        raise UserError(f"the {what} are a {type(values).__name__}; give a list.")
    return list(values)


def check_finite(values: Any, what: str, advice: str) -> None:
    """Raises UserError if an array has NaN or infinity, before it becomes a black picture."""
    if not bool(jnp.isfinite(jnp.asarray(values)).all()):
        raise UserError(f"{what} has values that are not finite; try {advice}.")
