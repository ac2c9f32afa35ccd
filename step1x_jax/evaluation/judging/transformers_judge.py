"""Qwen2.5-VL of the transformers library as a judge in this process.

For a machine whose one device holds the model; larger ones are served by vLLM. Needs the extra
[torch], which is imported when a judge is made.
"""

import io
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from PIL import Image

from step1x_jax.asking.exchange import Ask, NoReply, QuestionPicture, Reply, Served
from step1x_jax.errors import UserError
from step1x_jax.evaluation.judging.presets import JudgePreset
from step1x_jax.files import fingerprint

IMAGE = "<|image_pad|>"


class TransformersJudge:
    """Asks a model that is in memory, one question at a time."""

    host = ""

    def __init__(self, preset: JudgePreset):
        """Load it, onto a GPU if there is one.

        Args:
          preset: `model` is the model's folder, as Hugging Face has it.

        Raises:
          UserError: torch is not installed, the folder has no such model, or the memory does not
            suffice.
        """
        try:
            import torch
        except ImportError as e:
            raise UserError(
                "a judge in this process needs PyTorch; pip install 'step1x_jax[torch]'."
            ) from e
        folder = epath.Path(preset.model)
        if not folder.is_dir():
            raise UserError(f"--model={preset.model} is no folder; give that of a Qwen2.5-VL.")
        try:
            self._tokenizer, self._images, self._model = _load(str(folder))
        except (MemoryError, torch.OutOfMemoryError) as e:
            raise UserError(
                f"the memory does not suffice for the model in {folder} ({e}); serve it by vLLM."
            ) from e
        except Exception as e:  # of many kinds, from config to weights
            raise UserError(
                f"the model in {folder} cannot be loaded by transformers ({e}); give the complete"
                " folder of a Qwen2.5-VL."
            ) from e
        self._model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._torch = torch
        self._name = f"{folder.name} {fingerprint(folder)}"
        self.preset = preset

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See `Respondent`."""
        return {"model": self.preset.model, "max_tokens": self.preset.max_tokens}

    def close(self) -> None:
        """Give the memory back."""
        self._model = None

    def describe(self) -> Served:
        """How its weights are quantized."""
        settings = getattr(self._model.config, "quantization_config", None) or {}
        method = settings.get("quant_method") if isinstance(settings, dict) else settings
        return Served(quantisation=str(getattr(method, "quant_method", method) or ""))

    def answer(self, ask: Ask, attempt: int) -> Reply:
        """See `Respondent`; greedy, so that further attempts would give the same."""
        begun = time.monotonic()
        inputs = self._prepare(ask)
        length = inputs["input_ids"].shape[1]
        with self._torch.inference_mode():
            tokens = self._model.generate(
                **inputs, max_new_tokens=self.preset.max_tokens, do_sample=False
            )[0, length:]
        return Reply(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            finish_reason="length" if len(tokens) >= self.preset.max_tokens else "stop",
            model=self._name,
            input_tokens=length,
            output_tokens=len(tokens),
            seconds=round(time.monotonic() - begun, 3),
        )

    def _prepare(self, ask: Ask) -> dict[str, Any]:
        """Return the model's inputs: tokens, in which each picture has its places, and patches."""
        pictures = [part for part in ask.parts if isinstance(part, QuestionPicture)]
        content: list[dict[str, str]] = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in ask.parts
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if ask.system:
            system = [{"type": "text", "text": ask.system}]
            messages.insert(0, {"role": "system", "content": system})
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        before, *rest = text.split(IMAGE)
        if len(rest) != len(pictures):
            raise NoReply(f"{IMAGE} is in the question itself", again=False)
        inputs: dict[str, Any] = {}
        if pictures:
            files = [Image.open(io.BytesIO(picture.encode())) for picture in pictures]
            inputs |= self._images(files, return_tensors="pt")
            places = inputs["image_grid_thw"].prod(-1) // self._images.merge_size**2
            for number, after in zip(places.tolist(), rest, strict=True):
                before += IMAGE * number + after
        inputs |= self._tokenizer([before], return_tensors="pt")
        # Without this the pictures' tokens silently get the positions of text.
        inputs["mm_token_type_ids"] = (
            inputs["input_ids"] == self._tokenizer.convert_tokens_to_ids(IMAGE)
        ).int()
        return {name: tensor.to(self._model.device) for name, tensor in inputs.items()}


def _load(folder: str) -> tuple[Any, Any, Any]:
    """Tokenizer, picture processor and model; raises whatever transformers raises."""
    from transformers import (
        AutoTokenizer,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
    )

    # Not by AutoProcessor, which wants torchvision, for videos.
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise ValueError("its tokenizer has no chat template")
    images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    model_class: Any = Qwen2_5_VLForConditionalGeneration
    model, report = model_class.from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True
    )
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors do not fit its config.json, {wrong[0]} among them")
    return tokenizer, images, model
