"""Makes parts of a picture unrecognisable, for good."""

from collections.abc import Sequence

from PIL import Image

from step1x_jax.evaluation.deidentify.decisions import Redaction

FILL = (128, 128, 128)
CELLS = 4  # a blurred box keeps the mean colours of at most so many parts along each side


def redact_picture(picture: Image.Image, boxes: Sequence[Redaction]) -> Image.Image:
    """A copy in which nothing of the boxes' contents is left.

    "fill" is solid grey. "blur" keeps CELLS x CELLS mean colours, of the box alone, with smooth
    transitions: a Gaussian blur could be undone in part, this cannot.

    Args:
      picture: RGB, upright.
      boxes: within it. Where they overlap the fill counts: what is under it reaches no blur.
    """
    filled = picture.copy()
    for box in boxes:
        if box.how == "fill":
            filled.paste(FILL, (box.x0, box.y0, box.x1, box.y1))
    result = filled.copy()
    for box in boxes:
        place = (box.x0, box.y0, box.x1, box.y1)
        size = box.x1 - box.x0, box.y1 - box.y0
        if box.how == "blur":
            few = min(CELLS, size[0]), min(CELLS, size[1])
            means = filled.crop(place).resize(few, Image.Resampling.BOX)
            result.paste(means.resize(size, Image.Resampling.BICUBIC), place)
    for box in boxes:
        if box.how == "fill":
            result.paste(FILL, (box.x0, box.y0, box.x1, box.y1))
    return result
