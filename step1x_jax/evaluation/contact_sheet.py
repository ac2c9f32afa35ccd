"""Rows of pictures with a text each, on one sheet: what scores differ about, to look at."""

from collections.abc import Mapping, Sequence

from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image, open_image
from step1x_jax.conditioning.picture_row import PAPER, picture_row
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.method_pictures import find_pictures
from step1x_jax.evaluation.samples import Sample, SampleId
from step1x_jax.evaluation.statistics import SampleScores, measures_of

HEIGHT = 320  # pixels of every picture


def draw_sheet(rows: Sequence[tuple[Sequence[Image.Image], str]]) -> Image.Image:
    """Rows below each other.

    Args:
      rows: RGB pictures of any size, and a text.

    Returns:
      RGB picture.
    """
    drawn = [picture_row([_scaled(one) for one in pictures], text) for pictures, text in rows]
    width = max(row.width for row in drawn)
    sheet = Image.new("RGB", (width, sum(row.height for row in drawn)), PAPER)
    top = 0
    for row in drawn:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _scaled(picture: Image.Image) -> Image.Image:
    width = max(1, round(picture.width * HEIGHT / picture.height))
    return picture.resize((min(width, 3 * HEIGHT), HEIGHT))  # none is a strip without end


def draw_disagreements(
    pairs: Sequence[tuple[SampleScores, SampleScores]],
    folders: Mapping[str, epath.PathLike],
    benchmark: Benchmark,
    samples: Mapping[SampleId, Sample],
    source: str,
) -> tuple[Image.Image | None, list[SampleId]]:
    """A sheet of samples about which two methods' scores differ.

    Args:
      pairs: of `largest_disagreements`; the scores of the first and the second method.
      folders: of both methods, by name, the first one first.
      benchmark: which.
      samples: those of which the source and the instruction are to be shown.
      source: name of the source picture.

    Returns:
      The sheet, and the samples that are not on it because a picture is missing or unreadable;
      None: all of them.
    """
    wanted = [first.id for first, _ in pairs]
    files = {
        method: find_pictures(folder, wanted, benchmark.layout)
        for method, folder in folders.items()
    }
    rows, left_out = [], []
    for scored in pairs:
        sample = samples.get(scored[0].id)
        texts = ["/".join(scored[0].id)]
        pictures = []
        try:
            if sample is not None:
                texts.append(sample.instruction)
                pictures.append(decode_image(sample.pictures[source](), texts[0]))
            for (method, paths), scores in zip(files.items(), scored, strict=True):
                path = paths[scores.id]
                if path is None:
                    raise UserError(f"{method} has no picture of {texts[0]}.")
                pictures.append(open_image(path))
                texts.append(f"{method}: {_in_words(scores, benchmark)}")
        except UserError:
            left_out.append(scored[0].id)
        else:
            rows.append((pictures, "; ".join(texts)))
    return (draw_sheet(rows) if rows else None), left_out


def _in_words(scores: SampleScores, benchmark: Benchmark) -> str:
    assert scores.scores is not None  # those without are in no pair
    named = zip(measures_of(benchmark), scores.scores, strict=True)
    return ", ".join(f"{measure} {value:.1f}" for measure, value in named)
