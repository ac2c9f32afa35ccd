"""Measures against pictures that are known: the true edit, and the source.

They need data with true edits. Likeness to the target rewards one way of carrying out an
instruction of many; likeness to the source rewards restraint, and most of all an editor that does
nothing. So the two are kept apart, and neither replaces a judge.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image, open_image
from step1x_jax.errors import UserError
from step1x_jax.evaluation.samples import Sample, SampleId

AGAINST = ("target", "source")
SMALLEST_SSIM = 11  # pixels of its window's side


class Measure(Protocol):
    """A number of two pictures."""

    @property
    def name(self) -> str:
        """Name of the column."""

    def describe(self, picture: Image.Image) -> Any:
        """Return the features of an RGB picture that are compared."""

    def compare(self, edited: Any, other: Any) -> float:
        """The number, from what `describe` gave of both."""


class TextMeasure(Protocol):
    """A number of a picture and a text."""

    @property
    def name(self) -> str:
        """Name of the column."""

    def measure(self, picture: Image.Image, text: str) -> float:
        """The number."""


@dataclasses.dataclass(frozen=True)
class PixelMeasure:
    """One of PIXEL_MEASURES: of pixels in [0, 1], the edited picture at the other one's size."""

    name: str
    of: Callable[[np.ndarray, np.ndarray], float]

    def describe(self, picture: Image.Image) -> Image.Image:
        """The picture itself."""
        return picture

    def compare(self, edited: Image.Image, other: Image.Image) -> float:
        """The number."""
        return self.of(to_unit(resize_to(edited, other.size)), to_unit(other))


def resize_to(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at a size (width, height)."""
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS)


def to_unit(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) float64 in [0, 1]."""
    return np.asarray(picture.convert("RGB"), np.float64) / 255


def measure_l1(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference."""
    return float(np.abs(a - b).mean())


def measure_l2(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference, as MagicBrush's tables have it."""
    return float(((a - b) ** 2).mean())


def measure_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in dB; infinity if the pictures are equal."""
    error = measure_l2(a, b)
    return -10 * math.log10(error) if error else math.inf


def measure_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity, with the Gaussian window of Wang et al. 2004, mean over channels.

    Raises:
      UserError: scikit-image is missing, or the pictures are smaller than the window.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as e:
        raise UserError("SSIM needs scikit-image: pip install 'step1x_jax[evaluation]'") from e
    if min(a.shape[:2]) < SMALLEST_SSIM:
        raise UserError(
            f"a picture of {a.shape[1]}x{a.shape[0]} pixels is too small for SSIM, which takes"
            f" {SMALLEST_SSIM} and more on each side; leave it out."
        )
    return float(
        structural_similarity(
            a,
            b,
            data_range=1.0,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


PIXEL_MEASURES = (
    PixelMeasure("l1", measure_l1),
    PixelMeasure("l2", measure_l2),
    PixelMeasure("psnr", measure_psnr),
    PixelMeasure("ssim", measure_ssim),
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of a sample.

    Attributes:
      id: of the sample.
      status: of the method's picture.
      values: by column: target_NAME, source_NAME, and the names of text measures.
    """

    id: SampleId
    status: Literal["measured", "missing", "unreadable"]
    values: Mapping[str, float]


def measure_samples(
    samples: Iterable[Sample],
    find: Callable[[SampleId], epath.Path | None],
    columns: Mapping[str, str],
    measures: Sequence[Measure],
    text_measures: Sequence[TextMeasure] = (),
    caption: str | None = None,
    tell: Callable[[], object] = lambda: None,
) -> list[Measured]:
    """Measure a method's pictures.

    Args:
      samples: of a data set with true edits.
      find: the method's picture of a sample, None if there is none.
      columns: "target" and "source" -> the column of that picture.
      measures: of two pictures.
      text_measures: of the edited picture and a text.
      caption: the data set's column with a description of the target, for these.
      tell: is called for each sample.

    Raises:
      UserError: a picture of the data set cannot be read, or a sample has no caption.
    """
    measured = []
    for sample in samples:
        tell()
        path = find(sample.id)
        if path is None:
            measured.append(Measured(sample.id, "missing", {}))
            continue
        try:
            edited = open_image(path)
        except UserError:
            measured.append(Measured(sample.id, "unreadable", {}))
            continue
        values = {}
        described = {measure.name: measure.describe(edited) for measure in measures}
        name = "/".join(filter(None, sample.id))
        for against, column in columns.items():
            other = decode_image(sample.pictures[column](), f"{name} {column}")
            for measure in measures:
                value = measure.compare(described[measure.name], measure.describe(other))
                values[f"{against}_{measure.name}"] = value
        for text_measure in text_measures:
            text = sample.extra.get(caption or "", "")
            if not text.strip():
                raise UserError(f"{name} has no text in the column {caption}; give another one.")
            values[text_measure.name] = text_measure.measure(edited, text)
        measured.append(Measured(sample.id, "measured", values))
    return measured


@dataclasses.dataclass(frozen=True)
class ReferenceRow:
    """A method's means of one measure.

    Attributes:
      language: of the samples.
      method: whose pictures.
      column: what was measured.
      tasks: task -> mean over its samples; None: there is none.
      average: as the benchmark has it; None if a task has none.
      samples: that were measured.
      identical: of these, how many are infinite (PSNR of equal pictures): they are in no mean.
    """

    language: str
    method: str
    column: str
    tasks: Mapping[str, float | None]
    average: float | None
    samples: int
    identical: int


def average_measures(
    method: str, measured: Sequence[Measured], mean_of: Literal["tasks", "samples"]
) -> list[ReferenceRow]:
    """Means by language and column.

    Args:
      method: its name.
      measured: of its pictures.
      mean_of: over what the average is, as `Benchmark` has it.
    """
    tasks: dict[str, dict[str, None]] = defaultdict(dict)  # language -> tasks, in order
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in measured:
        tasks[one.id.language][one.id.task] = None
        for column, value in one.values.items():
            found[one.id.language, column][one.id.task].append(value)
    rows = []
    for (language, column), by_task in found.items():
        finite = {task: [v for v in by_task[task] if math.isfinite(v)] for task in tasks[language]}
        means = {task: float(np.mean(v)) if v else None for task, v in finite.items()}
        there = [mean for mean in means.values() if mean is not None]
        every = [value for values in finite.values() for value in values]
        average = None
        if len(there) == len(means):
            average = float(np.mean(there if mean_of == "tasks" else every))
        count = sum(map(len, by_task.values()))
        rows.append(
            ReferenceRow(language, method, column, means, average, count, count - len(every))
        )
    return rows
