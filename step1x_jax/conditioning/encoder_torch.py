"""Qwen2.5-VL of the transformers library, the reference for our own. Only this file has torch."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.conditioning.processor import PicturePatches
from step1x_jax.errors import UserError
from step1x_jax.models.mllm.positions import UNSEEN_POSITION

SMALL = 50_000_000  # parameters; below, waking threads costs more than they do


class TorchLanguageModel:
    """The frozen model, on a GPU if torch finds one; a LanguageModelBackend of encoder.py."""

    def __init__(self, model: Any):
        """Take a loaded transformers.Qwen2_5_VLModel; see `load_torch`."""
        self._model = model.eval().requires_grad_(False)
        self.image_token_id: int = model.config.image_token_id

    def __call__(
        self,
        pictures: Sequence[PicturePatches],
        prompts: Sequence[Sequence[int]],
        unseen_id: int | None = None,
    ) -> np.ndarray:
        """Output of the final norm (B, L, C), L the longest prompt; undefined past ends."""
        import torch

        length = max(map(len, prompts))
        ids = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in prompts])
        # Padding is what is past the end. Ids do not tell: 0 is "!".
        is_text = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in prompts])
        unseen = is_text.bool() & (ids == (-1 if unseen_id is None else unseen_id))
        mask = is_text.masked_fill(unseen, 0)
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            # Without this the picture's tokens silently get the positions of text.
            "mm_token_type_ids": (ids == self.image_token_id).int(),
            "pixel_values": torch.from_numpy(np.concatenate([p.patches for p in pictures])),
            "image_grid_thw": torch.from_numpy(np.stack([p.grid for p in pictures])),
        }
        if unseen.any():  # the release's version of transformers puts these at 1, newer ones at 0
            places = ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")
            positions, _ = self._model.get_rope_index(**{name: inputs[name] for name in places})
            inputs["position_ids"] = positions.masked_fill(unseen, UNSEEN_POSITION)
        with torch.inference_mode():
            output = self._model(
                **{name: array.to(self._model.device) for name, array in inputs.items()},
                use_cache=False,
            ).last_hidden_state.cpu()
        if output.dtype == torch.bfloat16:  # numpy takes torch's bfloat16 only as bits
            return output.view(torch.int16).numpy().view(jnp.bfloat16)
        return output.numpy()


def load_torch(folder: epath.PathLike, dtype: str) -> TorchLanguageModel:
    """The model from its Hugging Face folder, without its lm_head, which only writing text needs.

    Args:
      folder: with config.json and the weights.
      dtype: of parameters and arithmetic, "float32" or "bfloat16".

    Raises:
      UserError: torch is not installed, or the folder is incomplete or does not fit.
    """
    try:
        import torch
    except ImportError as e:
        raise UserError(
            "the text encoder of transformers needs PyTorch (pip install 'torch>=2.6'); without it"
            " take --text_encoder_implementation=jax."
        ) from e
    from transformers import Qwen2_5_VLForConditionalGeneration

    model_class: Any = Qwen2_5_VLForConditionalGeneration
    try:
        model, report = model_class.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
        )
    except (MemoryError, torch.OutOfMemoryError) as e:
        raise UserError(
            f"the memory does not suffice for the model in {folder} ({e}); take"
            " --text_encoder_implementation=jax over several devices, or another machine."
        ) from e
    except Exception as e:  # of many kinds, from config to weights
        raise UserError(
            f"the model in {folder} cannot be loaded by transformers ({e});"
            " --text_encoder_implementation=jax names the file that is wrong."
        ) from e
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    wrong = sorted(str(name) for name in wrong if "lm_head" not in str(name))
    if wrong:
        raise UserError(
            f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors are missing,"
            f" unexpected or of another shape, {wrong[0]} among them; download the folder again."
        )
    if model.num_parameters() < SMALL:
        torch.set_num_threads(1)
    return TorchLanguageModel(model.model.to("cuda" if torch.cuda.is_available() else "cpu"))
