"""Which files are decoded as pictures, and what any other file seems to be.

Pillow knows more formats than these. Some of its readers start another program (PostScript) or read
what no camera and no editor writes; strangers' files do not choose among them.
"""

from PIL import Image

FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "ICO",
    "QOI", "PCX", "SGI", "TGA",
)  # fmt: skip
RUN_PROGRAMS = ("EPS", "WMF")  # what decodes these is no part of Pillow
ADVICE = "give a PNG, JPEG, WebP or TIFF file"

_CONVERT = "convert it to PNG or JPEG"
# (offset, bytes there, what such a file is, what to do)
_SIGNATURES = (
    (0, b"8BPS", "a Photoshop document", _CONVERT),
    (0, b"%!PS", "a PostScript file", _CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file", _CONVERT),
    (0, b"%PDF", "a PDF document", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL picture", _CONVERT),
    (4, b"JXL ", "a JPEG XL picture", _CONVERT),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture", _CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR picture", _CONVERT),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile", _CONVERT),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file", _CONVERT),
    (4, b"ftypavif", "an AVIF picture, which this Pillow cannot read", _CONVERT),
    (4, b"ftypcrx", "a camera's raw file", _CONVERT),
    (4, b"ftyphei", "a HEIC picture, as iPhones take them", _CONVERT),
    (4, b"ftyphev", "a HEIC picture, as iPhones take them", _CONVERT),
    (4, b"ftypmif1", "a HEIF picture", _CONVERT),
    (4, b"ftypmsf1", "a HEIF picture", _CONVERT),
    (4, b"ftyp", "a video", "save one of its frames as PNG or JPEG"),
    (0, b"\x1a\x45\xdf\xa3", "a video", "save one of its frames as PNG or JPEG"),
    (8, b"AVI ", "a video", "save one of its frames as PNG or JPEG"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it and give a picture of it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it and give a picture of it"),
    (0, b"\x93NUMPY", "a NumPy array", ADVICE),
    (0, b"PAR1", "a parquet file", ADVICE),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer, not the picture itself",
        "run git lfs pull",
    ),
)
_RAW_TAGS = (0xC612, 0xC621)  # DNGVersion, ColorMatrix1
_SUBFILE_TYPE, _REDUCED = 0xFE, 1


def usable_formats() -> list[str]:
    """Return those of FORMATS that this build of Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def describe(data: bytes) -> tuple[str, str]:
    """Return what unreadable bytes seem to be, and what to do about it."""
    if not data:
        return "an empty file", "copy or download it again"
    for offset, signature, what, advice in _SIGNATURES:
        if data.startswith(signature, offset):
            return what, advice
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page", "download the picture itself"
    if b"<svg" in start:
        return "an SVG drawing", _CONVERT
    if _is_text(data[:1024]):
        return "a text file", ADVICE
    return "not a picture in a format that is read", ADVICE


def is_raw(image: Image.Image) -> bool:
    """Whether a TIFF is a camera's raw file, of which Pillow would give the thumbnail."""
    tags = getattr(image, "tag_v2", {})
    return any(tag in tags for tag in _RAW_TAGS) or tags.get(_SUBFILE_TYPE) == _REDUCED


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode()
    except UnicodeDecodeError as e:
        if e.start < len(start) - 3:  # else the cut went through a character
            return False
        text = start[: e.start].decode()
    return all(char.isprintable() or char.isspace() for char in text)
