"""Edited pictures as files: formats, and the note in them on how they were made."""

import io
import json
from typing import Any

from etils import epath
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from step1x_jax.conditioning.images import MOST_BYTES
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError
from step1x_jax.files import replacing

# How the endings are written: everything that a viewer could see of the edit is kept.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".webp": ("WEBP", {"quality": 95}),
}
LONGEST_SIDE = {"JPEG": 65_535, "WEBP": 16_383}  # pixels that a format can have

NOTE = "step1x_jax"  # keyword of the PNG chunk, and the one key of the JSON in EXIF
LARGEST_NOTE = 60_000  # characters: EXIF of a JPEG has at most 64 KiB
_USER_COMMENT = 0x9286
_ASCII = b"ASCII\0\0\0"  # how EXIF says in what a comment is written


def check_format(path: epath.PathLike, size: tuple[int, int] | None = None) -> None:
    """Raise UserError if a picture cannot be saved under a name, or not one of this size."""
    path = epath.Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"--output={path} should end in .png, .jpg or .webp (or in /, as a folder)."
        )
    name, _ = FORMATS[path.suffix.lower()]
    if size and max(size) > LONGEST_SIDE.get(name, max(size)):
        raise UserError(
            f"--output={path}: {name} holds no picture of {size[0]}x{size[1]} pixels; write a .png."
        )


def save_picture(path: epath.PathLike, picture: Image.Image, note: str = "") -> None:
    """Save a picture in the format of its name, completely or not at all.

    Args:
      path: ends in one of FORMATS.
      picture: RGB.
      note: text in ASCII that is kept in the file: of a PNG as an iTXt chunk, else in the EXIF
        field UserComment. Too long a one is left out.

    Raises:
      UserError: see `check_format` and `replacing`.
    """
    check_format(path, picture.size)
    name, options = FORMATS[epath.Path(path).suffix.lower()]
    if note and len(note) <= LARGEST_NOTE:
        options = options | (_in_png(note) if name == "PNG" else _in_exif(note))
    with replacing(path) as temporary, temporary.open("wb") as f:
        picture.save(f, name, **options)


def _in_png(note: str) -> dict[str, Any]:
    info = PngInfo()
    info.add_itxt(NOTE, note)
    return {"pnginfo": info}


def _in_exif(note: str) -> dict[str, Any]:
    exif = Image.Exif()
    text = json.dumps({NOTE: note}).encode("ascii")
    exif.get_ifd(ExifTags.IFD.Exif)[_USER_COMMENT] = _ASCII + text
    return {"exif": exif}


def read_note(path: epath.PathLike) -> str | None:
    """The note in a picture; None: it has none. No pixel is decoded.

    Raises:
      UserError: it is no such picture, or damaged.
    """
    data = read_input_file(path, "a picture", MOST_BYTES)
    formats = sorted({name for name, _ in FORMATS.values()})
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.format == "PNG":
                note = image.info.get(NOTE)
            else:
                comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT)
                note = _of_comment(comment)
    except Exception as e:  # Pillow's readers raise nearly anything on damaged files
        raise UserError(f"{path} is no readable PNG, JPEG or WebP picture ({e}).") from e
    fine = isinstance(note, str) and 0 < len(note) <= LARGEST_NOTE
    return str(note) if fine else None


def _of_comment(comment: Any) -> Any:
    if not isinstance(comment, bytes) or not comment.startswith(_ASCII):
        return None
    try:
        values = json.loads(comment[len(_ASCII) :])
    except (ValueError, RecursionError):  # somebody else's
        return None
    return values.get(NOTE) if isinstance(values, dict) else None
