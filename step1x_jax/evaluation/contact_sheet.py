"""Rows of pictures with a text each, on one sheet: what scores differ about, to look at."""

from collections.abc import Sequence

from PIL import Image

from step1x_jax.conditioning.picture_row import PAPER, picture_row

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
