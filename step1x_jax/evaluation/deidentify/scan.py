"""Looks for what identifies people in a data set's pictures, once for each picture."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from step1x_jax.conditioning.colours import to_srgb
from step1x_jax.conditioning.images import identify_image
from step1x_jax.errors import UserError
from step1x_jax.evaluation.deidentify.findings import Box, Findings, PictureFindings, RequestedEdit
from step1x_jax.evaluation.deidentify.look_alikes import PublicPictures
from step1x_jax.evaluation.deidentify.metadata import list_metadata
from step1x_jax.evaluation.samples import Sample


class Detector(Protocol):
    """Finds boxes in a picture of (H, W, 3) uint8, RGB."""

    version: str

    def __call__(self, pixels: np.ndarray) -> list[Box]:
        """The boxes that it finds."""


def scan_pictures(
    samples: Iterable[Sample],
    *,
    benchmark: str,
    source: str,
    detectors: Mapping[str, Detector],
    public: PublicPictures | None = None,
    tell: Callable[[], object] = lambda: None,
) -> Findings:
    """Look at every picture of a data set.

    Args:
      samples: of the data set.
      benchmark: its form.
      source: column of the pictures.
      detectors: by name.
      public: among which look-alikes are searched.
      tell: is called for each sample.

    Returns:
      What was found; samples with one picture, byte by byte, are together.

    Raises:
      UserError: a detector gives what it must not.
    """
    pictures: dict[str, PictureFindings] = {}
    unreadable = []
    for sample in samples:
        request = RequestedEdit(*sample.id, sample.instruction)
        name = "/".join(filter(None, sample.id))
        tell()
        try:
            data = sample.pictures[source]()
            digest = hashlib.sha256(data).hexdigest()
            if digest in pictures:
                pictures[digest].requests.append(request)
                continue
            image = identify_image(data, name)
            metadata = list_metadata(image)
            picture = to_srgb(image, name)
        except UserError as e:
            unreadable.append(f"{name}: {e}")
            continue
        pixels = np.asarray(picture)
        pictures[digest] = PictureFindings(
            digest=digest,
            width=picture.width,
            height=picture.height,
            metadata=metadata,
            boxes=[box for detector in detectors.values() for box in detector(pixels)],
            look_alikes=public.find(picture) if public else [],
            requests=[request],
        )
    return Findings(
        format=1,
        scan=secrets.token_hex(4),
        secret=secrets.token_hex(32),
        benchmark=benchmark,
        source=source,
        detectors={name: detector.version for name, detector in detectors.items()},
        pictures=list(pictures.values()),
        unreadable=unreadable,
    )
