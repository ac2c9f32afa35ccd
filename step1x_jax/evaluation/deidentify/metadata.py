"""Information in a picture's file besides its pixels."""

from PIL import ExifTags, Image

_LONGEST = 12  # names that are listed


def list_metadata(image: Image.Image) -> list[str]:
    """Kinds of metadata in a picture's file, with names of fields, never with what they say.

    Args:
      image: as Pillow opened it.

    Returns:
      Such as ["EXIF: Make, Model", "GPS position"]; those that cannot be read are named, too.
    """
    found = []
    try:
        exif = image.getexif()
        camera = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
        names = [str(ExifTags.TAGS.get(tag, tag)) for tag in camera]
        plain = [name for name in names if name not in ("ExifOffset", "GPSInfo")]
        if plain:
            found.append(f"EXIF: {_listed(plain)}")
        if exif.get_ifd(ExifTags.IFD.GPSInfo):
            found.append("GPS position")
        if exif.get_ifd(ExifTags.IFD.IFD1):
            found.append("EXIF thumbnail")
    except Exception as e:  # of many kinds, on damaged EXIF data
        found.append(f"EXIF that cannot be read ({type(e).__name__})")
    info = image.info
    for title, keys in (
        ("XMP", ("xmp", "XML:com.adobe.xmp")),
        ("IPTC or Photoshop data", ("photoshop",)),
        ("comment", ("comment",)),
        ("colour profile", ("icc_profile",)),
        ("several pictures", ("mp",)),
    ):
        if any(info.get(key) for key in keys):
            found.append(title)
    texts = [key for key in getattr(image, "text", {}) if key != "XML:com.adobe.xmp"]
    if texts:
        found.append(f"text fields: {_listed(texts)}")
    return found


def _listed(names: list[str]) -> str:
    rest = len(names) - _LONGEST
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(name[:40] for name in names[:_LONGEST]) + more
