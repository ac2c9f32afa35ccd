"""A picture of several side by side, with a text below: source and result with the instruction."""

import functools
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 1 / 40  # of a picture's longer side, around all and between
SMALLEST_MARGIN = 8  # pixels
TEXT = 1.6  # times the margin: height of the letters
MOST_LINES = 6
INK, PAPER = (32, 32, 32), (255, 255, 255)
NOWHERE = "\U0010fffd"  # a letter that no font has: how a font draws those it lacks
# For what Pillow's own font cannot write; names under which systems have fonts for Chinese.
FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-zenhei.ttc", "wqy-microhei.ttc",
    "PingFang.ttc", "msyh.ttc", "DroidSansFallbackFull.ttf", "DejaVuSans.ttf",
)  # fmt: skip


def picture_row(pictures: Sequence[Image.Image], text: str) -> Image.Image:
    """Pictures beside each other, a text below.

    Args:
      pictures: RGB; all are shown as high as the first.
      text: such as what was done; cut after MOST_LINES lines.

    Returns:
      RGB picture.
    """
    first = pictures[0]
    shown = [_as_high(picture, first.height) for picture in pictures]
    margin = max(SMALLEST_MARGIN, round(MARGIN * max(first.size)))
    width = sum(picture.width + margin for picture in shown) + margin
    font = _font_for(text, round(TEXT * margin))
    lines = "\n".join(_lines(text, font, width - 2 * margin))
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    bottom = measure.multiline_textbbox((0, 0), lines, font=font)[3]
    page = Image.new("RGB", (width, first.height + round(bottom) + 3 * margin), PAPER)
    left = margin
    for picture in shown:
        page.paste(picture, (left, margin))
        left += picture.width + margin
    place = (margin, first.height + 2 * margin)
    ImageDraw.Draw(page).multiline_text(place, lines, fill=INK, font=font)
    return page


def _as_high(picture: Image.Image, height: int) -> Image.Image:
    if picture.height == height:
        return picture
    return picture.resize((max(1, round(picture.width * height / picture.height)), height))


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines of a width: broken between words, within them where there is no space."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], lines[MOST_LINES - 1][:-3] + "..."]
    return lines


def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first of the fonts that can write the most of a text's letters."""
    own = ImageFont.load_default(size)
    assert isinstance(own, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType
    letters = {letter for letter in text if not letter.isspace()}

    def unknown(font: ImageFont.FreeTypeFont) -> int:
        box = _drawn(font, NOWHERE)
        return sum(_drawn(font, letter) == box for letter in letters)

    return own if not unknown(own) else min([own, *_system_fonts(size)], key=unknown)


@functools.cache
def _system_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    found = []
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:  # this system does not have it
            continue
    return tuple(found)


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    return bytes(font.getmask(letter))
