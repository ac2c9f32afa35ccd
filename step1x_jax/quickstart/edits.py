"""Real edits that a few lines of arithmetic can make, with instructions in English and Chinese.

Each edit is a pure function of the picture: nothing about the result is random, because an
instruction cannot tell a model what a random number was. The kinds change a picture strongly, so
that a model that only copies its input scores badly, and keep what the picture shows, so that a
model that ignores its input does too.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CAPTION = "HELLO"

# Luma of ITU-R BT.601, as Pillow's mode "L" uses.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of edit.

    Attributes:
      name: Short unique name.
      task: Task name of the paper's taxonomy (as GEdit-Bench writes it).
      apply: (H, W, 3) uint8 -> (H, W, 3) uint8, pure.
      english: Ways to ask for it in English.
      chinese: Ways to ask for it in Chinese.
    """

    name: str
    task: str
    apply: Callable[[np.ndarray], np.ndarray]
    english: tuple[str, ...]
    chinese: tuple[str, ...]


def negative(image: np.ndarray) -> np.ndarray:
    """Every colour becomes its complement."""
    return 255 - image


def night(image: np.ndarray) -> np.ndarray:
    """Dark and blue, highlights survive as moonlight."""
    x = _to_float(image)
    grey = (x @ LUMA)[..., None]
    moonlit = 0.4 * x + 0.6 * grey
    return _to_uint8(moonlit**1.2 * np.array([0.30, 0.40, 0.70], np.float32))


def sunset(image: np.ndarray) -> np.ndarray:
    """Warm light: blue and green fade, orange glows from the top down to a violet ground."""
    x = _to_float(image)
    y = _ramp(image, axis=0)[..., None]
    light = (1 - y) * np.array([1.15, 0.62, 0.16]) + y * np.array([0.92, 0.36, 0.34])
    glow = (1 - y) * np.array([0.20, 0.08, 0.0]) + y * np.array([0.04, 0.0, 0.06])
    return _to_uint8(x * light + glow)


def fog(image: np.ndarray) -> np.ndarray:
    """Grey mist, dense in the distance (top) and thinner towards the viewer (bottom)."""
    x = _to_float(image)
    grey = (x @ LUMA)[..., None]
    density = (0.74 - 0.36 * _ramp(image, axis=0))[..., None]
    return _to_uint8((1 - density) * (0.5 * x + 0.5 * grey) + density * 0.82)


def vignette(image: np.ndarray) -> np.ndarray:
    """A bright centre, everything around it fades to black."""
    y, x = 2 * _ramp(image, axis=0) - 1, 2 * _ramp(image, axis=1) - 1
    radius = np.sqrt(x**2 + y**2)
    light = _smoothstep((1.1 - radius) / 0.5)
    return _to_uint8(_to_float(image) * light[..., None])


def sketch(image: np.ndarray) -> np.ndarray:
    """A pencil drawing: light shading under dark lines where the picture has edges."""
    grey = Image.fromarray(image).convert("L")
    blurred = grey.filter(ImageFilter.GaussianBlur(max(image.shape[:2]) / 50))
    x, soft = np.asarray(grey, np.float32) / 255, np.asarray(blurred, np.float32) / 255
    lines = np.clip((x + 0.08) / (soft + 0.08), 0, 1)  # colour dodge: 1 where nothing is darker
    paper = lines**2 * (0.7 + 0.3 * np.sqrt(x))
    return _to_uint8(np.repeat(paper[..., None], 3, axis=-1))


def frame(image: np.ndarray) -> np.ndarray:
    """The outermost eighth on every side is white."""
    height, width = image.shape[:2]
    border = round(min(height, width) / 8)
    result = np.full_like(image, 255)
    inside = (slice(border, height - border), slice(border, width - border))
    result[inside] = image[inside]
    return result


def caption(image: np.ndarray) -> np.ndarray:
    """A yellow strip along the bottom with one word in black."""
    height, width = image.shape[:2]
    strip = round(0.3 * height)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height - strip, width, height), fill=(255, 220, 0))
    font = ImageFont.load_default(min(0.8 * strip, 0.23 * width))
    draw.text((width / 2, height - strip / 2), CAPTION, (0, 0, 0), font=font, anchor="mm")
    return np.asarray(picture)


def red_ball(image: np.ndarray) -> np.ndarray:
    """A large shiny red ball in the middle."""
    height, width = image.shape[:2]
    side = min(height, width)
    y = ((np.arange(height) + 0.5 - height / 2) / (0.3 * side))[:, None]
    x = ((np.arange(width) + 0.5 - width / 2) / (0.3 * side))[None, :]
    squared = x**2 + y**2
    # A sphere lit from the upper left: Lambert's cosine, and a small highlight.
    z = np.sqrt(np.clip(1 - squared, 0, 1))
    cosine = np.clip((-x - y + 1.2 * z) / np.sqrt(1 + 1 + 1.44), 0, 1)
    colour = (0.25 + 0.75 * cosine)[..., None] * np.array([0.95, 0.06, 0.08])
    colour = colour + (cosine**30)[..., None] * 0.7
    edge = np.clip((1 - np.sqrt(squared)) * 0.3 * side + 0.5, 0, 1)[..., None]  # one soft pixel
    return _to_uint8(_to_float(image) * (1 - edge) + colour * edge)


def hue_swap(image: np.ndarray) -> np.ndarray:
    """Red and blue change places, and colours become stronger."""
    x = _to_float(image)[..., ::-1]
    grey = (x @ LUMA)[..., None]
    return _to_uint8(grey + 1.8 * (x - grey))


_ALL = (
    Kind(
        "negative",
        "color_alter",
        negative,
        (
            "Turn the picture into a negative",
            "Invert all colors",
            "Make it look like a film negative",
            "Show the negative of this photo",
            "Invert the colors of the image",
        ),
        ("把图片变成底片", "反转所有颜色", "做成胶片负片的效果", "将照片的颜色反相"),
    ),
    Kind(
        "night",
        "tone_transfer",
        night,
        (
            "Make it night",
            "Turn day into night",
            "Change the scene to a dark blue night",
            "Show this place at night under the moon",
            "Make the photo look as if taken at night",
        ),
        ("把场景变成夜晚", "改成夜景", "把白天换成黑夜", "让照片看起来像在夜里拍的"),
    ),
    Kind(
        "sunset",
        "tone_transfer",
        sunset,
        (
            "Give it the light of a sunset",
            "Make it look like sunset",
            "Bathe the scene in warm orange evening light",
            "Change the light to a red sunset",
            "Add the glow of the setting sun",
        ),
        ("换成日落的光线", "让画面像日落时分", "加上夕阳的橙色光", "把光线改成傍晚的晚霞"),
    ),
    Kind(
        "fog",
        "tone_transfer",
        fog,
        (
            "Add thick fog",
            "Make the scene foggy",
            "Cover everything with grey mist",
            "Let dense fog roll in",
            "Change the weather to fog",
        ),
        ("加上浓雾", "让场景起雾", "用灰色的薄雾盖住一切", "把天气改成大雾"),
    ),
    Kind(
        "vignette",
        "background_change",
        vignette,
        (
            "Fade the background to black",
            "Add a strong black vignette",
            "Darken everything but the center",
            "Put a spotlight on the center",
            "Make the surroundings of the center black",
        ),
        ("让背景渐变成黑色", "加上明显的黑色暗角", "只保留中间，四周变黑", "用聚光灯照亮中心"),
    ),
    Kind(
        "sketch",
        "style_change",
        sketch,
        (
            "Turn it into a pencil sketch",
            "Draw it with a pencil",
            "Make it a pencil drawing",
            "Change the style to a sketch on paper",
            "Redraw this photo as a sketch",
        ),
        ("变成铅笔素描", "用铅笔画出来", "改成素描风格", "把照片画成一幅素描"),
    ),
    Kind(
        "frame",
        "subject-add",
        frame,
        (
            "Add a white frame",
            "Put a thick white border around it",
            "Frame the picture in white",
            "Surround the photo with a white frame",
            "Give the image a white border",
        ),
        ("加一个白色边框", "给图片加上宽宽的白边", "用白框把照片围起来", "在四周添加白色相框"),
    ),
    Kind(
        "caption",
        "text_change",
        caption,
        (
            f"Write {CAPTION} on a yellow strip at the bottom",
            f"Add the text {CAPTION} on a yellow bar",
            f"Put a yellow banner saying {CAPTION} below",
            f"Add a caption with the word {CAPTION}",
            f"Print the word {CAPTION} at the bottom",
        ),
        (
            f"在底部的黄条上写{CAPTION}",
            f"加上文字{CAPTION}",
            f"在下方放一条写着{CAPTION}的黄色横幅",
            f"在图片底部添加字幕{CAPTION}",
        ),
    ),
    Kind(
        "red_ball",
        "subject-add",
        red_ball,
        (
            "Add a big red ball in the middle",
            "Put a shiny red ball in the center",
            "Place a large red ball here",
            "Insert a red ball in the center of the photo",
            "There should be a red ball in the middle",
        ),
        (
            "在中间加一个大红球",
            "在中央放一个闪亮的红球",
            "添加一个红色的球",
            "画面正中要有一个红球",
        ),
    ),
    Kind(
        "hue_swap",
        "color_alter",
        hue_swap,
        (
            "Swap red and blue",
            "Exchange the red and blue colors",
            "Make red things blue and blue things red",
            "Switch the red and blue channels",
            "Change red to blue and blue to red",
        ),
        ("把红色和蓝色互换", "交换红蓝两种颜色", "红的变蓝，蓝的变红", "对调红色与蓝色通道"),
    ),
)


# All kinds by name, in a fixed order.
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}


def _to_float(image: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1]."""
    return image.astype(np.float32) / 255


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """Float in [0, 1], clipped and rounded, to uint8."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _ramp(image: np.ndarray, axis: int) -> np.ndarray:
    """Pixel centres along an axis, 0 to 1, broadcast to (H, W) float32."""
    length = image.shape[axis]
    ramp = (np.arange(length, dtype=np.float32) + 0.5) / length
    shape = (length, 1) if axis == 0 else (1, length)
    return np.broadcast_to(ramp.reshape(shape), image.shape[:2])


def _smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, a smooth cubic between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
