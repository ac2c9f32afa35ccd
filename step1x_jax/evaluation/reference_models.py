"""Measures by models whose weights the user names: CLIP, DINO, LPIPS. Only this file has torch."""

import functools
import importlib.util
import pathlib
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.evaluation.reference import resize_to
from step1x_jax.weights.files.opening import open_raw

# LPIPS v0.1 (Zhang et al. 2018): after which of torchvision's `features` a layer is compared.
LAYERS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
# Their convolutions: place in `features`, stride, padding.
CONVOLUTIONS = {
    "alex": ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)),
    "vgg": tuple((i, 1, 1) for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
}
POOLS = {"alex": {2: 3, 5: 3}, "vgg": {4: 2, 9: 2, 16: 2, 23: 2}}  # place -> window; stride 2
FIRST_SHAPES: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
SMALLEST_LPIPS = 64  # pixels of a side


class DinoMeasure:
    """DINO: cosine of the class tokens of the last layer."""

    name = "dino"

    def __init__(self, folder: epath.PathLike):
        """Load a model and its processor from a folder as Hugging Face has it."""
        self._model, self._processor = _load(folder, "--dino")

    def describe(self, picture: Image.Image) -> np.ndarray:
        """(C,) float64, of length 1."""
        torch = _torch()
        with torch.inference_mode():
            inputs = self._processor(images=[picture], return_tensors="pt")
            output = self._model(pixel_values=inputs["pixel_values"].to(self._model.device))
        return _unit(output.last_hidden_state[0, 0])

    def compare(self, edited: np.ndarray, other: np.ndarray) -> float:
        """The cosine."""
        return float(edited @ other)


class ClipMeasure:
    """CLIP-I: cosine of the embeddings of two pictures."""

    name = "clip_i"

    def __init__(self, folder: epath.PathLike):
        """Load a model and its processor from a folder as Hugging Face has it."""
        self._model, self._processor = _load(folder, "--clip")
        if not hasattr(self._model, "get_image_features"):
            raise UserError(f"--clip={folder} is no CLIP model; give the folder of one.")
        self.folder = folder

    def describe(self, picture: Image.Image) -> np.ndarray:
        """(C,) float64, of length 1."""
        torch = _torch()
        with torch.inference_mode():
            inputs = self._processor(images=[picture], return_tensors="pt")
            pixels = inputs["pixel_values"].to(self._model.device)
            return _unit(self._model.get_image_features(pixel_values=pixels).pooler_output[0])

    def compare(self, edited: np.ndarray, other: np.ndarray) -> float:
        """The cosine."""
        return float(edited @ other)

    def describe_text(self, text: str) -> np.ndarray:
        """(C,) float64, of length 1; a text that is too long is cut, as CLIP does."""
        torch = _torch()
        with torch.inference_mode():
            inputs = self._tokenizer([text], truncation=True, return_tensors="pt")
            inputs = {name: values.to(self._model.device) for name, values in inputs.items()}
            return _unit(self._model.get_text_features(**inputs).pooler_output[0])

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        except Exception as e:  # of many kinds
            raise UserError(f"--clip={self.folder} has no tokenizer that can be read ({e}).") from e


class ClipTextMeasure:
    """CLIP-T: cosine of the embeddings of a picture and of a description of what it should be."""

    name = "clip_t"

    def __init__(self, clip: ClipMeasure):
        """Take the model that measures pictures."""
        self._clip = clip

    def measure(self, picture: Image.Image, text: str) -> float:
        """The cosine."""
        return float(self._clip.describe(picture) @ self._clip.describe_text(text))


class LpipsMeasure:
    """LPIPS v0.1, of AlexNet or VGG-16: 0 for equal pictures.

    The linear heads are those of the package torchmetrics. The network comes from the user, as
    torchvision names its tensors (features.0.weight, ...): the shapes tell which of the two it is.
    """

    name = "lpips"

    def __init__(self, path: epath.PathLike):
        """Load the weights.

        Raises:
          UserError: torch or torchmetrics is missing, or the file holds another network.
        """
        torch = _torch()
        file = open_raw(path)
        names = [name for name in file.shapes if name.startswith("features.")]
        first: tuple[int, ...] = tuple(file.shapes.get("features.0.weight", ()))
        kind = FIRST_SHAPES.get(first)
        wanted = [f"features.{place}.weight" for place, _, _ in CONVOLUTIONS.get(kind or "", ())]
        if kind is None or not set(wanted) <= set(names):
            raise UserError(
                f"--lpips={path} is neither torchvision's AlexNet nor its VGG-16"
                " (features.0.weight, ...); give a .safetensors file of one of them."
            )
        self.kind = kind
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._weights = {
            place: tuple(
                torch.from_numpy(np.array(file.read(f"features.{place}.{part}"), np.float32)).to(
                    self._device
                )
                for part in ("weight", "bias")
            )
            for place, _, _ in CONVOLUTIONS[kind]
        }
        self._heads = [head.to(self._device) for head in _lpips_heads(kind)]

    def describe(self, picture: Image.Image) -> Image.Image:
        """The picture itself."""
        return picture

    def compare(self, edited: Image.Image, other: Image.Image) -> float:
        """The distance, the edited picture at the other one's size."""
        torch = _torch()
        if min(other.size) < SMALLEST_LPIPS:
            raise UserError(
                f"a picture of {other.width}x{other.height} pixels is too small for LPIPS, which"
                f" takes {SMALLEST_LPIPS} and more on each side; leave it out."
            )
        with torch.inference_mode():
            pairs = zip(
                self._features(resize_to(edited, other.size)), self._features(other), strict=True
            )
            distance = 0.0
            for head, (a, b) in zip(self._heads, pairs, strict=True):
                distance += float((head * (a - b) ** 2).sum(1).mean())
        return distance

    def _features(self, picture: Image.Image) -> list[Any]:
        """Outputs of the compared layers, each (1, C, H, W) with channels of length 1."""
        torch = _torch()
        pixels = torch.from_numpy(np.array(picture.convert("RGB"), np.float32)).to(self._device)
        shift, scale = (torch.tensor(values, device=self._device) for values in (SHIFT, SCALE))
        x = ((pixels / 127.5 - 1 - shift) / scale).permute(2, 0, 1)[None]
        found = []
        convolutions = {place: rest for place, *rest in CONVOLUTIONS[self.kind]}
        for place in range(LAYERS[self.kind][-1] + 1):
            if place in convolutions:
                stride, padding = convolutions[place]
                x = torch.nn.functional.conv2d(x, *self._weights[place], stride, padding)
            elif window := POOLS[self.kind].get(place):
                x = torch.nn.functional.max_pool2d(x, window, 2)
            else:
                x = torch.relu(x)
            if place in LAYERS[self.kind]:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found


def _lpips_heads(kind: str) -> list[Any]:
    """Weights of the linear heads, each (1, C, 1, 1)."""
    torch = _torch()
    spec = importlib.util.find_spec("torchmetrics")  # importing it would take seconds
    if spec is None or spec.origin is None:
        raise UserError("LPIPS needs torchmetrics, for its heads: pip install 'step1x_jax[torch]'")
    path = pathlib.Path(spec.origin).parent / "functional" / "image" / "lpips_models"
    try:
        heads = torch.load(path / f"{kind}.pth", map_location="cpu", weights_only=True)
        return [heads[f"lin{i}.model.1.weight"].float() for i in range(5)]
    except (OSError, KeyError) as e:
        raise UserError(
            "this version of torchmetrics has no heads of LPIPS; pip install 'step1x_jax[torch]'"
        ) from e


def _load(folder: epath.PathLike, flag: str) -> tuple[Any, Any]:
    """A model, on a GPU if torch finds one, and its picture processor; nothing is downloaded."""
    torch = _torch()
    from transformers import AutoImageProcessor, AutoModel

    if not epath.Path(folder).is_dir():
        raise UserError(f"{flag}={folder} is no folder; give a model's, with config.json.")
    try:
        processor = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
        model, report = AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as e:  # of many kinds, from config to weights
        raise UserError(
            f"{flag}={folder} cannot be loaded by transformers ({e}); give a folder with"
            " config.json, preprocessor_config.json and model.safetensors."
        ) from e
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing or report["mismatched_keys"]:
        raise UserError(
            f"the weights in {folder} do not fit its config.json ({len(missing)} tensors are"
            " missing); download the folder again."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().requires_grad_(False).to(device), processor


def _unit(vector: Any) -> np.ndarray:
    """Return the vector as float64, of length 1."""
    array = vector.double().cpu().numpy()
    return array / np.linalg.norm(array)


def _torch() -> Any:
    try:
        import torch
    except ImportError as e:
        raise UserError("CLIP, DINO and LPIPS need PyTorch: pip install 'step1x_jax[torch]'") from e
    return torch
