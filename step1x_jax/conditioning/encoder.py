"""Qwen2.5-VL as the text encoder: pictures and instructions to embeddings, frozen.

What both implementations share is here: the settings, the prompt, what is dropped and cut. The
language model itself is ours (encoder_jax.py) or that of transformers (encoder_torch.py).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh
from PIL import Image

from step1x_jax.bounds import Pixels, Tokens
from step1x_jax.conditioning import processor, tokenizer
from step1x_jax.conditioning.encoder_jax import load_jax
from step1x_jax.conditioning.encoder_torch import load_torch
from step1x_jax.conditioning.processor import PicturePatches, Processor
from step1x_jax.conditioning.prompt import QUOTINGS, Prompt
from step1x_jax.conditioning.tokenizer import load_tokenizer
from step1x_jax.errors import UserError, require
from step1x_jax.json_files import check_fields
from step1x_jax.weights.files.shards import indices
from step1x_jax.weights.language_model import CONFIG, open_mllm, read_mllm_config
from step1x_jax.weights.language_model import FILE as WEIGHTS

IMPLEMENTATIONS = ("jax", "transformers")
DTYPES = ("bfloat16", "float32")

Array = Any  # of numpy or jax


# Fields of EncoderConfig that decide how a trained model's prompts are read: they travel with it.
READING = ("min_pixels", "max_pixels", "quoting", "picture_label")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Which language model reads the instructions, and how. The defaults are the release's."""

    path: str = ""  # a Hugging Face folder of Qwen2.5-VL
    min_pixels: Pixels = 256 * 28 * 28  # the picture is scaled to at least
    max_pixels: Pixels = 324 * 28 * 28  # and at most so many pixels; 28 x 28 of them make a token
    text_length: Tokens = 640  # tokens kept, those of the picture included
    quoting: str = "published"  # or "words", see prompt.py
    picture_label: bool = False  # "Picture 1: " before the picture, see prompt.py
    dtype: str = "bfloat16"  # of the language model; or "float32"

    def validate(self) -> None:
        """Raise UserError, naming the field, for values that cannot be used."""
        check_fields(self, "the config", "encoder")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise UserError(
                f"encoder.min_pixels={self.min_pixels} and encoder.max_pixels={self.max_pixels}:"
                " use positive numbers, the first not above the second."
            )
        rules = ", ".join(QUOTINGS)
        require(self.quoting in QUOTINGS, "encoder.quoting", self.quoting, f"use one of {rules}")
        if self.dtype not in DTYPES:
            raise UserError(f"encoder.dtype is {self.dtype!r}; use one of {', '.join(DTYPES)}.")


def stored_reading(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of READING that a model's config.json, a run or a data set has stored.

    What was stored before there was a choice of the label has been made with it; one that says
    nothing of the prompt (a release, or sizes written by hand) says nothing of the label either.
    """
    stored = {name: values[name] for name in READING if name in values}
    return {"picture_label": True} | stored if "quoting" in stored else stored


class TextEncoder(Protocol):
    """The interface of a text encoder. B examples, T tokens, C width."""

    def encode(
        self, images: Sequence[Image.Image], instructions: Sequence[str]
    ) -> tuple[Array, np.ndarray]:
        """Embed each instruction together with its picture.

        Args:
          images: B pictures as the editor sees them, resized.
          instructions: B texts; an empty one is legal.

        Returns:
          Embeddings (B, T, C) in float32 or bfloat16, zero past their lengths, and lengths (B,)
          int32.

        Raises:
          UserError: a picture or an instruction that cannot be read.
        """
        ...


class PictureTakesAllTokens(UserError):
    """Picture and prompt alone take `tokens`, not fewer than the `text_length` that are kept."""

    def __init__(self, tokens: int, text_length: int):
        super().__init__(
            f"no instruction fits: the picture and the prompt alone take {tokens} tokens of"
            f" text_length={text_length}; give fewer max_pixels (28 x 28 are a token) and"
            " min_pixels, or a larger text_length."
        )
        self.tokens, self.text_length = tokens, text_length


class LanguageModelBackend(Protocol):
    """An implementation of Qwen2.5-VL's forward pass. `image_token_id` is the config's."""

    image_token_id: int

    def __call__(
        self,
        pictures: Sequence[PicturePatches],
        prompts: Sequence[Sequence[int]],
        unseen_id: int | None = None,
    ) -> Array:
        """The last hidden state.

        Args:
          pictures: B of them.
          prompts: B lists of token ids, each with image_token_id once for every token of its
            picture.
          unseen_id: no token attends to those with this id, nor are they counted in positions.

        Returns:
          (B, L, C), L at least the length of the longest prompt; undefined past a prompt's end.
        """
        ...


class QwenEncoder:
    """The TextEncoder of the releases: prompt, picture processor and a LanguageModelBackend."""

    def __init__(self, config: EncoderConfig, model: LanguageModelBackend):
        """Take a loaded model; `load_encoder` loads it as well.

        Raises:
          UserError: the tokenizer or the processor's settings are missing, or of another model.
        """
        self.config = config
        self._model = model
        mllm = read_mllm_config(config.path)
        beside = reading_folder(config.path)
        tokenize = load_tokenizer(beside, mllm.language.vocab_size)
        self._prompt = Prompt(tokenize, config.quoting, config.picture_label)
        self._processor = Processor(beside, config.min_pixels, config.max_pixels, mllm.vision)
        if self._prompt.image_id != model.image_token_id:
            raise UserError(
                f"in {beside}, tokenizer.json gives the picture id {self._prompt.image_id} and"
                f" config.json {model.image_token_id}; download the folder again."
            )

    def encode(
        self, images: Sequence[Image.Image], instructions: Sequence[str]
    ) -> tuple[jax.Array, np.ndarray]:
        """See `TextEncoder.encode`; all B examples go through the model as one batch.

        A text beyond config.text_length tokens is cut, with a warning.
        """
        read = {id(image): self.read(image) for image in {id(i): i for i in images}.values()}
        pictures = [read[id(image)] for image in images]
        return self.embed(pictures, list(map(self.tokenize, pictures, instructions)))

    def read(self, image: Image.Image) -> PicturePatches:
        """The first part of `encode`, for one picture; may run in many threads.

        Raises:
          UserError: the picture is too long and thin, or leaves no room for an instruction.
        """
        picture = self._processor(image)
        before = len(self._prompt.ids("", picture.tokens)) - self._prompt.dropped
        if before >= self.config.text_length:
            raise PictureTakesAllTokens(before, self.config.text_length)
        return picture

    def tokenize(self, picture: PicturePatches, instruction: str) -> list[int]:
        """The second part, for one prompt; cut with a warning. May run in many threads.

        Raises:
          UserError: the instruction has a placeholder of pictures, or half a character.
        """
        limit = self._prompt.dropped + self.config.text_length
        ids = self._prompt.ids(instruction, picture.tokens)
        if len(ids) > limit:
            logging.warning(
                "The instruction %.80r and its picture have %d tokens; cut to text_length=%d.",
                instruction, len(ids) - self._prompt.dropped, self.config.text_length,
            )  # fmt: skip
        return ids[:limit]  # what comes later changes nothing before it

    def embed(
        self, pictures: Sequence[PicturePatches], prompts: Sequence[Sequence[int]]
    ) -> tuple[jax.Array, np.ndarray]:
        """The last part, for a batch, on the devices; returns what `encode` does."""
        dropped = self._prompt.dropped
        lengths = np.array([len(ids) - dropped for ids in prompts], np.int32)
        states = self._model(pictures, prompts, self._prompt.unseen_id)
        return _kept(states, lengths, dropped, self.config.text_length), lengths


@functools.partial(jax.jit, static_argnames=("dropped", "limit"))
def _kept(states: Array, lengths: Array, dropped: int, limit: int) -> jax.Array:
    """(B, L, C) to (B, limit, C): without the first positions, zero past the lengths."""
    states = jnp.asarray(states)[:, dropped : dropped + limit]
    states = jnp.pad(states, ((0, 0), (0, limit - states.shape[1]), (0, 0)))
    is_text = jnp.arange(limit) < lengths[:, None]
    return jnp.where(is_text[..., None], states, 0)


def reading_folder(path: str) -> epath.Path:
    """Where tokenizer and picture processor of a language model are: with it.

    A pipeline of diffusers has them beside its text_encoder/, in processor/.
    """
    folder = epath.Path(path)
    beside = folder.parent / "processor"
    return folder if (folder / tokenizer.FILE).is_file() or not beside.is_dir() else beside


def missing_files(path: str, *, weights: bool = True) -> list[str]:
    """Return the files of a language model that a folder lacks, with or without its weights."""
    if not path:
        return ["a folder, and none is given"]
    folder, beside = epath.Path(path), reading_folder(path)
    wanted = [folder / CONFIG, processor.settings_file(beside) or beside / processor.FILE]
    if weights and not indices(folder):
        wanted.append(folder / WEIGHTS)
    absent = [str(file) for file in wanted if not file.is_file()]
    return [*absent, *filter(None, [tokenizer.missing(beside)])]


def check_encoder(path: str) -> None:
    """Raise UserError for what can be wrong with a folder, but for the numbers in its weights.

    To be asked before other parts are read, which takes minutes.
    """
    mllm = read_mllm_config(path)
    beside = reading_folder(path)
    load_tokenizer(beside, mllm.language.vocab_size)
    limits = EncoderConfig()
    Processor(beside, limits.min_pixels, limits.max_pixels, mllm.vision)
    open_mllm(path)


def load_encoder(
    config: EncoderConfig,
    implementation: str = "jax",
    mesh: Mesh | None = None,
    on_host: bool = False,
) -> QwenEncoder:
    """The encoder with its model.

    Args:
      config: names the model's folder, with config.json, model*.safetensors, tokenizer.json and
        preprocessor_config.json (or processor_config.json, as newer folders have it).
      implementation: one of IMPLEMENTATIONS; "transformers" needs torch.
      mesh: for "jax", see `load_jax`, as is on_host.

    Raises:
      UserError: the folder is incomplete, of another model, or does not fit.
    """
    config.validate()
    names = " or ".join(IMPLEMENTATIONS)
    require(implementation in IMPLEMENTATIONS, "the encoder", implementation, f"use {names}")
    if missing := missing_files(config.path, weights=False):
        raise UserError(f"the encoder needs {missing[0]}; give the folder of a Qwen2.5-VL model.")
    folder = epath.Path(config.path)
    if implementation == "jax":
        return QwenEncoder(config, load_jax(folder, config.dtype, mesh, on_host))
    return QwenEncoder(config, load_torch(folder, config.dtype))
