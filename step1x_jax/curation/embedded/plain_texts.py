"""Instructions for the plain edits (plain.py): no slots, for they are the same in every picture.

The quickstart's tokenizer is made from these, and its model knows these.
"""

from step1x_jax.curation.categories import Category as C

Templates = dict[str, tuple[str, ...]]  # by language

# By category and name, in the order of plain.py.
PLAIN_TEMPLATES: dict[tuple[C, str], Templates] = {
    (C.COLOR_ALTER, "negative"): {
        "en": (
            "Turn the picture into a negative",
            "Invert all colors",
            "Make it look like a film negative",
            "Show the negative of this photo",
            "Invert the colors of the image",
        ),
        "cn": (
            "把图片变成底片",
            "反转所有颜色",
            "做成胶片负片的效果",
            "将照片的颜色反相",
        ),
    },
    (C.TONE_TRANSFER, "night"): {
        "en": (
            "Make it night.",
            "Turn day into night",
            "Change the scene to a dark blue night",
            "Show this place at night under the moon",
            "Make the photo look as if taken at night",
            "Turn day into a dark blue night",
            "Show this in the moonlight.",
            "Change the time to midnight",
            "Let it be dark, as at night",
        ),
        "cn": (
            "把场景变成夜晚",
            "改成夜景",
            "把白天换成黑夜",
            "让照片看起来像在夜里拍的",
            "改成深蓝色的夜景。",
            "让画面像在月光下",
            "把时间改成半夜",
            "换成黑夜的色调",
        ),
    },
    (C.TONE_TRANSFER, "sunset"): {
        "en": (
            "Give it the light of a sunset",
            "Make it look like sunset",
            "Bathe the scene in warm orange evening light",
            "Change the light to a red sunset",
            "Add the glow of the setting sun",
        ),
        "cn": (
            "换成日落的光线",
            "让画面像日落时分",
            "加上夕阳的橙色光",
            "把光线改成傍晚的晚霞",
        ),
    },
    (C.TONE_TRANSFER, "mist"): {
        "en": (
            "Add thick fog",
            "Make the scene foggy",
            "Cover everything with grey mist",
            "Let dense fog roll in",
            "Change the weather to fog",
        ),
        "cn": (
            "加上浓雾",
            "让场景起雾",
            "用灰色的薄雾盖住一切",
            "把天气改成大雾",
        ),
    },
    (C.BACKGROUND_CHANGE, "vignette"): {
        "en": (
            "Fade the background to black",
            "Add a strong black vignette",
            "Darken everything but the center",
            "Put a spotlight on the center",
            "Make the surroundings of the center black",
        ),
        "cn": (
            "让背景渐变成黑色",
            "加上明显的黑色暗角",
            "只保留中间，四周变黑",
            "用聚光灯照亮中心",
        ),
    },
    (C.STYLE_CHANGE, "line_drawing"): {
        "en": (
            "Turn it into a pencil sketch",
            "Draw it with a pencil",
            "Make it a pencil drawing",
            "Change the style to a sketch on paper",
            "Redraw this photo as a sketch",
        ),
        "cn": (
            "变成铅笔素描",
            "用铅笔画出来",
            "改成素描风格",
            "把照片画成一幅素描",
        ),
    },
    (C.SUBJECT_ADD, "frame"): {
        "en": (
            "Add a white frame",
            "Put a thick white border around it",
            "Frame the picture in white",
            "Surround the photo with a white frame",
            "Give the image a white border",
        ),
        "cn": (
            "加一个白色边框",
            "给图片加上宽宽的白边",
            "用白框把照片围起来",
            "在四周添加白色相框",
        ),
    },
    (C.TEXT_CHANGE, "caption"): {
        "en": (
            "Write HELLO on a yellow strip at the bottom",
            "Add the text HELLO on a yellow bar",
            "Put a yellow banner saying HELLO below",
            "Add a caption with the word HELLO",
            "Print the word HELLO at the bottom",
        ),
        "cn": (
            "在底部的黄条上写HELLO",
            "加上文字HELLO",
            "在下方放一条写着HELLO的黄色横幅",
            "在图片底部添加字幕HELLO",
        ),
    },
    (C.SUBJECT_ADD, "red_ball"): {
        "en": (
            "Add a big red ball in the middle",
            "Put a shiny red ball in the center",
            "Place a large red ball here",
            "Insert a red ball in the center of the photo",
            "There should be a red ball in the middle",
        ),
        "cn": (
            "在中间加一个大红球",
            "在中央放一个闪亮的红球",
            "添加一个红色的球",
            "画面正中要有一个红球",
        ),
    },
    (C.COLOR_ALTER, "hue_swap"): {
        "en": (
            "Swap red and blue",
            "Exchange the red and blue colors",
            "Make red things blue and blue things red",
            "Switch the red and blue channels",
            "Change red to blue and blue to red",
        ),
        "cn": (
            "把红色和蓝色互换",
            "交换红蓝两种颜色",
            "红的变蓝，蓝的变红",
            "对调红色与蓝色通道",
        ),
    },
}
