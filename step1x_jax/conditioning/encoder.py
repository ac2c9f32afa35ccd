"""Qwen2.5-VL as the text encoder: pictures and instructions to embeddings, frozen.

This file alone imports torch, and only when an encoder is made.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from step1x_jax.conditioning.prompt import QUOTINGS, Prompt, load_tokenizer
from step1x_jax.errors import UserError, require

DTYPES = ("bfloat16", "float32")
SMALL = 50_000_000  # parameters; below, waking threads costs more than they do


# Fields of EncoderConfig that decide how a trained model's prompts are read: they travel with it.
READING = ("min_pixels", "max_pixels", "quoting")


@dataclasses.dataclass
class EncoderConfig:
    """Which language model reads the instructions, and how. The defaults are the release's."""

    path: str = ""  # a Hugging Face folder of Qwen2.5-VL
    min_pixels: int = 256 * 28 * 28  # the picture is scaled to at least
    max_pixels: int = 324 * 28 * 28  # and at most so many pixels; 28 x 28 of them make a token
    text_length: int = 640  # tokens kept, those of the picture included
    quoting: str = "published"  # or "words", see prompt.py
    dtype: str = "bfloat16"  # of the language model; or "float32"

    def validate(self) -> None:
        """Raises UserError, naming the field, for values that cannot be used."""
        if not 0 < self.min_pixels <= self.max_pixels:
            raise UserError(
                f"encoder.min_pixels={self.min_pixels} and encoder.max_pixels={self.max_pixels}:"
                " use positive numbers, the first not above the second."
            )
        if self.text_length < 1:
            raise UserError(f"encoder.text_length is {self.text_length}; use a positive number.")
        rules = ", ".join(QUOTINGS)
        require(self.quoting in QUOTINGS, "encoder.quoting", self.quoting, f"use one of {rules}")
        if self.dtype not in DTYPES:
            raise UserError(f"encoder.dtype is {self.dtype!r}; use one of {', '.join(DTYPES)}.")


class Encoder(Protocol):
    """What training data and editing need of an encoder. B examples, T tokens, C width."""

    def encode(
        self, images: Sequence[Image.Image], instructions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds each instruction together with its picture.

        Args:
          images: B pictures as the editor sees them, resized.
          instructions: B texts; an empty one is legal.

        Returns:
          Embeddings (B, T, C) in float32 or bfloat16, zero behind their lengths, and lengths (B,)
          int32.
        """
        ...


class TransformersEncoder:
    """Qwen2.5-VL of the transformers library, on a GPU if torch finds one."""

    def __init__(self, config: EncoderConfig):
        """Loads the model.

        Args:
          config: names its folder, with config.json, model*.safetensors, tokenizer.json and
            preprocessor_config.json.

        Raises:
          UserError: torch is not installed, or the folder is incomplete or does not fit.
        """
        config.validate()
        self.config = config
        folder = epath.Path(config.path or "(no folder given)")
        for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise UserError(
                    f"the encoder needs {folder / name}; give the folder of a Qwen2.5-VL model."
                )
        try:
            import torch
        except ImportError as e:
            raise UserError(
                "the encoder needs PyTorch (the extra [torch]): pip install 'torch>=2.6'"
            ) from e
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._prompt = Prompt(load_tokenizer(folder), config.quoting)
        self._processor = _load_processor(folder, config)
        self._model = _load_model(folder, getattr(torch, config.dtype)).to(self._device)
        if self._model.num_parameters() < SMALL:
            torch.set_num_threads(1)
        if self._prompt.image_id != self._model.config.image_token_id:
            raise UserError(
                f"in {folder}, tokenizer.json gives the picture id {self._prompt.image_id} and"
                f" config.json {self._model.config.image_token_id}; fetch the folder again."
            )

    def encode(
        self, images: Sequence[Image.Image], instructions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Encoder.encode`; all B examples go through the model as one batch.

        A text beyond config.text_length tokens is cut, with a warning.

        Raises:
          UserError: the picture leaves no room for an instruction.
        """
        pictures = [_to_tokens(image.convert("RGB")) for image in images]
        vision = self._processor(pictures, return_tensors="np")
        tokens = vision["image_grid_thw"].prod(axis=1) // self._processor.merge_size**2
        prompts = [self._prompt.ids(*example) for example in zip(instructions, tokens, strict=True)]
        self._check_room(int(max(tokens)))
        hidden = self._hidden_states(prompts, vision)

        kept = [len(ids) - self._prompt.dropped for ids in prompts]
        limit = self.config.text_length
        for length, instruction in zip(kept, instructions, strict=True):
            if length > limit:
                logging.warning(
                    "The instruction %r and its picture have %d tokens; cut to text_length=%d.",
                    instruction, length, limit,
                )  # fmt: skip
        lengths = np.minimum(kept, limit).astype(np.int32)
        embeddings = np.zeros((len(images), limit, hidden.shape[-1]), hidden.dtype)
        for row, states, length in zip(embeddings, hidden, lengths, strict=True):
            row[:length] = states[self._prompt.dropped :][:length]
        return embeddings, lengths

    def _check_room(self, image_tokens: int) -> None:
        """Raises UserError if the instruction behind a picture would be cut away as a whole."""
        before = len(self._prompt.ids("", image_tokens)) - self._prompt.dropped
        if before >= self.config.text_length:
            raise UserError(
                f"no instruction fits: the picture and the prompt alone take {before} tokens of"
                f" text_length={self.config.text_length}; give fewer max_pixels (28 x 28 are a"
                " token) and min_pixels, or a larger text_length."
            )

    def _hidden_states(self, prompts: list[list[int]], vision: Any) -> np.ndarray:
        """Output of the final norm (B, L, C), L the longest prompt; shorter ones end in rubbish."""
        torch = self._torch
        length = max(map(len, prompts))
        ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in prompts])
        # Padding is what lies behind the end. Ids do not tell: 0 is "!".
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in prompts])
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            # Without this the picture's tokens silently get the positions of text.
            "mm_token_type_ids": (ids == self._prompt.image_id).int(),
            "pixel_values": torch.from_numpy(vision["pixel_values"]),
            "image_grid_thw": torch.from_numpy(vision["image_grid_thw"]),
        }
        with torch.inference_mode():
            output = self._model(
                **{name: array.to(self._device) for name, array in inputs.items()},
                use_cache=False,
            ).last_hidden_state.cpu()
        if output.dtype == torch.bfloat16:  # numpy takes torch's bfloat16 only as bits
            return output.view(torch.int16).numpy().view(jnp.bfloat16)
        return output.numpy()


def _to_tokens(image: Image.Image) -> Image.Image:
    """Sides rounded to multiples of 28, as in the release (qwen_vl_utils), before the processor."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    height, width = smart_resize(
        image.height, image.width, factor=28, min_pixels=4 * 28 * 28, max_pixels=16384 * 28 * 28
    )
    return image.resize((width, height))


def _load_processor(folder: epath.Path, config: EncoderConfig) -> Any:
    from transformers import Qwen2VLImageProcessorPil

    try:
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        limits = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
        for name in ("min_pixels", "max_pixels"):
            settings.pop(name, None)
        return Qwen2VLImageProcessorPil(**(settings | {"size": limits}))
    except (ValueError, TypeError) as e:
        raise UserError(
            f"{folder / 'preprocessor_config.json'} is not readable ({e}); fetch it again."
        ) from e


def _load_model(folder: epath.Path, dtype: Any) -> Any:
    """The model without its lm_head, which only writing text needs."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model_class: Any = Qwen2_5_VLForConditionalGeneration
    try:
        model, report = model_class.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as e:  # of many kinds, from config to weights
        raise UserError(
            f"the model in {folder} cannot be loaded ({e}); fetch the folder again."
        ) from e
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    wrong = sorted(str(name) for name in wrong if "lm_head" not in str(name))
    if wrong:
        raise UserError(
            f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors are missing,"
            f" unexpected or of another shape, {wrong[0]} among them; fetch the folder again."
        )
    return model.model.eval().requires_grad_(False)
