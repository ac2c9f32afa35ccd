"""Qwen2.5-VL, or another vision language model of transformers, as a judge in this process.

For a machine whose one device holds the model; larger ones are served by vLLM. Needs the extra
[torch], which is imported here alone and when a judge is made.
"""

import io
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.evaluation.judging.exchange import Ask, Picture, Reply, Served
from step1x_jax.evaluation.judging.presets import JudgePreset
from step1x_jax.files import fingerprint


class TransformersJudge:
    """Asks a model that is in memory, one question at a time."""

    host = ""

    def __init__(self, preset: JudgePreset):
        """Loads it, onto a GPU if there is one.

        Args:
          preset: `model` is a folder of transformers, with its processor and chat template.

        Raises:
          UserError: torch is not installed, or the folder has no such model.
        """
        try:
            import torch
        except ImportError as e:
            raise UserError(
                "a judge in this process needs PyTorch; pip install 'step1x_jax[torch]'."
            ) from e
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = epath.Path(preset.model)
        if not folder.is_dir():
            raise UserError(f"--model={preset.model} is no folder; give that of a model.")
        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype="auto", local_files_only=True
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"--model={preset.model} is no vision language model that transformers can load"
                f" ({e}); give the folder of one."
            ) from e
        if not getattr(self._processor, "chat_template", None):
            raise UserError(f"--model={preset.model} has no chat template; add the model's own.")
        self._model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._torch = torch
        self._name = f"{folder.name} {fingerprint(folder)}"
        self.preset = preset

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See `Judge`."""
        return {"model": self.preset.model, "max_tokens": self.preset.max_tokens}

    def close(self) -> None:
        """Gives the memory back."""
        self._model = self._processor = None

    def describe(self) -> Served:
        """How its weights are quantized."""
        settings = getattr(self._model.config, "quantization_config", None) or {}
        method = settings.get("quant_method") if isinstance(settings, dict) else settings
        return Served(quantisation=str(getattr(method, "quant_method", method) or ""))

    def answer(self, ask: Ask, attempt: int) -> Reply:
        """See `Judge`; greedy, so that further attempts would give the same."""
        begun = time.monotonic()
        pictures = [part for part in ask.parts if isinstance(part, Picture)]
        images = [Image.open(io.BytesIO(picture.encode())) for picture in pictures]
        content: list[dict[str, str]] = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in ask.parts
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if ask.system:
            system = [{"type": "text", "text": ask.system}]
            messages.insert(0, {"role": "system", "content": system})
        text = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        inputs = self._processor(text=[text], images=images or None, return_tensors="pt")
        inputs = inputs.to(self._model.device)
        length = inputs["input_ids"].shape[1]
        with self._torch.inference_mode():
            tokens = self._model.generate(
                **inputs, max_new_tokens=self.preset.max_tokens, do_sample=False
            )[0, length:]
        return Reply(
            text=self._processor.decode(tokens, skip_special_tokens=True),
            finish_reason="length" if len(tokens) >= self.preset.max_tokens else "stop",
            model=self._name,
            input_tokens=length,
            output_tokens=len(tokens),
            seconds=round(time.monotonic() - begun, 3),
        )
