"""The page on which a person decides about each picture. It shows the private pictures."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image, read_image_bytes
from step1x_jax.data.paths import stays_inside
from step1x_jax.errors import UserError
from step1x_jax.evaluation.deidentify.findings import Findings, LookAlike, PictureFindings
from step1x_jax.evaluation.pages import render_page
from step1x_jax.evaluation.places import check_new
from step1x_jax.evaluation.samples import Sample, SampleId
from step1x_jax.files import making_folder

LONG_SIDE, PUBLIC_SIDE = 2048, 480  # pixels, of what the page shows
JPEG_QUALITY = 90


def build_review(
    findings: Findings,
    samples: Iterable[Sample],
    public_folder: epath.PathLike | None,
    folder: epath.PathLike,
    tell: Callable[[], object] = lambda: None,
) -> None:
    """Make a folder with index.html, and the pictures that it shows.

    Args:
      findings: of the scan.
      samples: of the data set that was scanned.
      public_folder: where look-alikes were found; None if none was given.
      folder: to make; it must stay where the private pictures may be.
      tell: is called for each picture.

    Raises:
      UserError: a picture is not the one that was scanned, or the place is taken.
    """
    check_new(folder, "output")
    by_id = {sample.id: sample for sample in samples}
    with making_folder(folder) as temporary:
        pictures = []
        for number, found in enumerate(findings.pictures):
            file = f"pictures/{number:05}.jpg"
            private = read_scanned(found, by_id, findings.source)
            _save(decode_image(private, found.digest), LONG_SIDE, temporary / file)
            public = []
            for place, one in enumerate(found.look_alikes):
                name = f"public/{number:05}-{place}.jpg"
                _save(open_public(one, public_folder), PUBLIC_SIDE, temporary / name)
                public.append(dataclasses.asdict(one) | {"file": name, "name": one.file})
            pictures.append(_shown(found, file, public))
            tell()
        data = {"format": 1, "scan": findings.scan, "pictures": pictures}
        page = render_page("evaluation/deidentify", "Reviewing pictures", data)
        (temporary / "index.html").write_text(page, encoding="utf-8")


def read_scanned(found: PictureFindings, by_id: dict[SampleId, Sample], source: str) -> bytes:
    """The file of a picture that was scanned.

    Raises:
      UserError: the data set has another one now.
    """
    request = found.requests[0]
    sample = by_id.get(request.id)
    data = sample.pictures[source]() if sample else b""
    if hashlib.sha256(data).hexdigest() != found.digest:
        raise UserError(
            f"the picture of {'/'.join(filter(None, request.id))} is not the one that was scanned;"
            " give that data set, or scan again."
        )
    return data


def open_public(one: LookAlike, folder: epath.PathLike | None) -> Image.Image:
    """A look-alike's picture.

    Args:
      one: of the findings.
      folder: of public pictures.

    Raises:
      UserError: it is not there any more, or another one is.
    """
    if folder is None:
        raise UserError(
            "look-alikes were found in a folder of public pictures; give it (--public)."
        )
    if not stays_inside(one.file):
        raise UserError(f"the findings name {one.file!r}, outside of {folder}; scan again.")
    data = read_image_bytes(epath.Path(folder) / one.file)
    if hashlib.sha256(data).hexdigest() != one.digest:
        raise UserError(f"{folder}/{one.file} is not the picture that was scanned; scan again.")
    return decode_image(data, one.file)


def _shown(found: PictureFindings, file: str, public: list[dict[str, Any]]) -> dict[str, Any]:
    return dataclasses.asdict(found) | {"file": file, "look_alikes": public}


def _save(picture: Image.Image, long_side: int, path: epath.Path) -> None:
    path.parent.mkdir(exist_ok=True)
    scale = min(1, long_side / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    with open(path, "wb") as stream:
        picture.resize(size).save(stream, "JPEG", quality=JPEG_QUALITY)
