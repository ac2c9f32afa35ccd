"""Rows with small pictures, and the defects that are planted into them."""

import io

import numpy as np
from PIL import Image, ImageFilter


def encode(pixels, kind="png", **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    return file.getvalue()


def picture(seed, size=(240, 320)):
    """(H, W, 3) uint8 of soft forms, another one for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(3)))


def edit(seed, colour=(250, 20, 20), place=(60, 80)):
    """Source, target and mask: a square of another colour."""
    source = picture(seed)
    mask = np.zeros(source.shape[:2], bool)
    mask[place[0] : place[0] + 70, place[1] : place[1] + 70] = True
    return source, np.where(mask[..., None], np.uint8(colour), source), mask


def row_of(source, target, mask=None, **columns):
    row = {"id": "a", "source": encode(source), "target": encode(target)}
    if mask is not None:
        row["mask"] = encode(np.uint8(mask) * 255)
    return row | {"instruction_en": "Add a square", "instruction_cn": "加一个方块"} | columns
