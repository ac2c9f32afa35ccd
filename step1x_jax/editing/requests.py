"""Checked arguments of an edit: one EditRequest for each picture that is to be made.

Everything that can be wrong in what was given is found here, before a model runs.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from step1x_jax.conditioning.images import MULTIPLE, image_size, read_picture
from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.editing.masks import read_mask
from step1x_jax.errors import UserError
from step1x_jax.json_files import shown
from step1x_jax.sampling.noise import check_seed

ONE_PICTURE = (str, bytes, Image.Image)
OUTPUT_SIZES = ("input", "edited")
MOST_IMAGES = 1000  # results of one call for each picture
LARGEST_SIDE = 8192  # pixels


@dataclasses.dataclass(frozen=True, eq=False)
class EditRequest:
    """One picture to be made.

    Attributes:
      source: the picture to edit, upright and in sRGB; None for text-to-image.
      instruction: what to do to it, or what to show.
      negative: what is not wanted.
      seed: of the noise.
      size: width and height, in pixels, at which the model works.
      output: width and height of the result.
      mask: (H, W) bool at the size of the source, what may change; None: all.
    """

    source: Image.Image | None
    instruction: str
    negative: str
    seed: int
    size: tuple[int, int]
    output: tuple[int, int]
    mask: np.ndarray | None = None


def edit_requests(
    image: Any,
    instruction: Any,
    *,
    negative: Any,
    seed: Any,
    size_level: int,
    mask: Any,
    output_size: Any,
    num_images: Any,
) -> list[EditRequest]:
    """Requests for edits: of each picture `num_images`, one after another.

    Args:
      image: see `Editor.edit`, as are the others.
      instruction: one each.
      negative: one for all, or one each.
      seed: of the first result, or one for each picture's first.
      size_level: see `image_size`.
      mask: None, one for all pictures, or one (or None) each.
      output_size: "input", "edited" or (width, height).
      num_images: results for each picture.

    Raises:
      UserError: something is of another kind, or numbers do not fit together.
    """
    pictures = _pictures(image)
    count = _count(num_images)
    texts, negatives = _texts(instruction, negative, len(pictures), "instruction")
    seeds = _seeds(seed, len(pictures), count)
    masks = list(mask) if isinstance(mask, list | tuple) else [mask] * len(pictures)
    if len(masks) != len(pictures):
        raise UserError(
            f"there are {len(masks)} masks for {len(pictures)} pictures; give one, or None, each."
        )
    requests = []
    for i, (picture, text, other) in enumerate(zip(pictures, texts, negatives, strict=True)):
        source = read_picture(picture, f"picture {i}")
        painted = None if masks[i] is None else read_mask(masks[i], source.size, f"mask {i}")
        size = image_size(*source.size, size_level)
        output = _output(output_size, source.size, size)
        requests += [
            EditRequest(source, text, other, seeds[i] + k, size, output, painted)
            for k in range(count)
        ]
    return requests


def generate_requests(
    prompt: Any, *, negative: Any, seed: Any, size: Any, num_images: Any
) -> list[EditRequest]:
    """Requests for text-to-image, as `edit_requests`; `size` is a side or (width, height)."""
    prompts = [prompt] if isinstance(prompt, str) else _as_list(prompt, "prompts")
    count = _count(num_images)
    if not prompts:
        raise UserError("there is no prompt; give one or more.")
    texts, negatives = _texts(prompts, negative, len(prompts), "prompt")
    seeds = _seeds(seed, len(texts), count)
    width, height = _pair(size if isinstance(size, tuple | list) else (size, size), "size")
    if width % MULTIPLE or height % MULTIPLE:
        raise UserError(f"size is {width}x{height}; give multiples of {MULTIPLE} pixels.")
    return [
        EditRequest(None, text, other, seeds[i] + k, (width, height), (width, height))
        for i, (text, other) in enumerate(zip(texts, negatives, strict=True))
        for k in range(count)
    ]


def _pictures(image: Any) -> list[Any]:
    alone = isinstance(image, ONE_PICTURE) or hasattr(image, "__fspath__")
    alone = alone or (isinstance(image, np.ndarray) and image.ndim < 4)
    pictures = [image] if alone else _as_list(image, "pictures")
    if not pictures:
        raise UserError("there is no picture; give one or more.")
    return pictures


def _texts(wanted: Any, unwanted: Any, count: int, what: str) -> tuple[list[str], list[str]]:
    """One text, and one of what is not wanted, for each picture."""
    if isinstance(unwanted, str):
        unwanted = [unwanted] * count
    return _each(wanted, count, what), _each(unwanted, count, f"negative {what}")


def _each(values: Any, count: int, what: str) -> list[str]:
    """Return a list of one text per picture; a single string is a list of one."""
    values = [values] if isinstance(values, str) else _as_list(values, f"{what}s")
    for value in values:
        if not isinstance(value, str):
            raise UserError(f"{_a(what)} is a {type(value).__name__}; give text.")
        check_instruction(value)
    if len(values) != count:
        raise UserError(f"there are {len(values)} {what}s for {count} pictures; give one for each.")
    return values


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def _as_list(values: Any, what: str) -> list[Any]:
    if isinstance(values, str | bytes | dict | set) or not isinstance(values, Iterable):
        raise UserError(f"the {what} are a {type(values).__name__}; give a list.")
    return list(values)


def _count(num_images: Any) -> int:
    fine = isinstance(num_images, int) and not isinstance(num_images, bool)
    if not fine or not 1 <= num_images <= MOST_IMAGES:
        raise UserError(
            f"num_images is {shown(num_images)}; give a whole number from 1 to {MOST_IMAGES}."
        )
    return num_images


def _seeds(seed: Any, pictures: int, count: int) -> list[int]:
    """The seed of each picture's first result; its others have the next ones."""
    if not isinstance(seed, list | tuple):
        first = check_seed(seed, pictures * count)
        return [first + i * count for i in range(pictures)]
    if len(seed) != pictures:
        raise UserError(
            f"there are {len(seed)} seeds for {pictures} pictures; give one for each, or one"
            " number."
        )
    return [check_seed(one, count) for one in seed]


def _output(wanted: Any, source: tuple[int, int], edited: tuple[int, int]) -> tuple[int, int]:
    if wanted == "input":
        return source
    if wanted == "edited":
        return edited
    if isinstance(wanted, str):
        names = " or ".join(OUTPUT_SIZES)
        raise UserError(f"output_size is {shown(wanted)}; give {names}, or (width, height).")
    return _pair(wanted, "output_size")


def _pair(values: Any, what: str) -> tuple[int, int]:
    fine = isinstance(values, tuple | list) and len(values) == 2
    fine = fine and all(isinstance(x, int) and not isinstance(x, bool) for x in values)
    if not fine or not all(1 <= x <= LARGEST_SIDE for x in values):
        raise UserError(
            f"{what} is {shown(values)}; give (width, height) in pixels, each up to {LARGEST_SIDE}."
        )
    width, height = values
    return width, height
