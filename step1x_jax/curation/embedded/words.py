"""Phrases in English and Chinese that are computed: places in a picture, directions."""

import math

from step1x_jax.curation.embedded.types import Words

_ROWS = (("upper", "上"), ("", ""), ("lower", "下"))
_COLUMNS = (("left", "左"), ("", ""), ("right", "右"))
_DIRECTIONS: tuple[Words, ...] = (
    {"en": "to the right", "cn": "向右"},
    {"en": "down and to the right", "cn": "向右下方"},
    {"en": "down", "cn": "向下"},
    {"en": "down and to the left", "cn": "向左下方"},
    {"en": "to the left", "cn": "向左"},
    {"en": "up and to the left", "cn": "向左上方"},
    {"en": "up", "cn": "向上"},
    {"en": "up and to the right", "cn": "向右上方"},
)


def position(x: float, y: float, width: int, height: int) -> Words:
    """Which ninth of a picture a point is in: "in the upper left", "左上方"."""
    row = min(int(3 * y / height), 2)
    column = min(int(3 * x / width), 2)
    if row == 1 and column == 1:
        return {"en": "in the middle", "cn": "中间"}
    if row == 1:
        side, chinese = _COLUMNS[column]
        return {"en": f"on the {side}", "cn": f"{chinese}侧"}
    if column == 1:
        return (
            {"en": "at the top", "cn": "上方"}
            if row == 0
            else {"en": "at the bottom", "cn": "下方"}
        )
    english = f"in the {_ROWS[row][0]} {_COLUMNS[column][0]}"
    return {"en": english, "cn": f"{_COLUMNS[column][1]}{_ROWS[row][1]}方"}


def side(x: float, width: int) -> Words:
    """Which third of a picture's width: "on the left", "左侧"."""
    return position(x, 0.5, width, 1)


def place(on: Words, where: Words) -> Words:
    """A surface and a position: "on the table in the upper left", "画面左上方的桌面上"."""
    return {"en": f"{on['en']} {where['en']}", "cn": f"画面{where['cn']}的{on['cn']}"}


def direction(dx: float, dy: float) -> Words:
    """The nearest of eight directions of a move in a picture (y grows downwards)."""
    return _DIRECTIONS[round(math.degrees(math.atan2(dy, dx)) / 45) % 8]


def quoted(text: str) -> Words:
    """A text in each language's quotation marks."""
    return {"en": f'"{text}"', "cn": f"“{text}”"}


def both(text: str) -> Words:
    """The same in both languages."""
    return {"en": text, "cn": text}
