"""A small private data set: photographs with positions and names in them, in two languages."""

import dataclasses
import io

import numpy as np
from PIL import Image

from step1x_jax.evaluation.deidentify.findings import Box
from step1x_jax.evaluation.samples import Sample, SampleId
from tests.evaluation.toy import picture

SIZE = (96, 64)
SECRET_WORDS = ("Anna", "IMG_anna")  # that must not go out


def photograph(text, size=SIZE, orientation=1):
    """The bytes of a JPEG with a camera, a position, a comment and XMP in it."""
    exif = Image.Exif()
    exif[0x010F] = "Anna's camera"
    exif[0x0112] = orientation
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 14.0)})
    stream = io.BytesIO()
    image = picture(text, size)
    if orientation == 6:  # as a camera that was held upright
        image = image.transpose(Image.Transpose.ROTATE_90)
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>Anna</x:xmpmeta>"
    image.save(stream, "JPEG", quality=95, exif=exif, comment=b"Anna", xmp=xmp)
    return stream.getvalue()


def private_samples(count=4):
    """Each picture with an instruction in two languages; the second one is stored turned."""
    samples = []
    for number in range(count):
        data = photograph(f"private {number}", orientation=6 if number == 1 else 1)
        for language in ("en", "cn"):
            samples.append(
                Sample(
                    SampleId("ps_human", language, f"IMG_anna_{number}"),
                    f"{language}: put a hat on Anna, {number}",
                    {"input_image_raw": lambda data=data: data},
                    intersection=number % 2 == 0,
                )
            )
    return samples


@dataclasses.dataclass
class Finds:
    """A detector that finds one place in every picture, and counts what it is shown."""

    kind: str = "face"
    place: tuple = (10, 20, 40, 50)
    version: str = "finds 1"
    calls: int = 0

    def __call__(self, pixels):
        assert pixels.dtype == np.uint8
        assert pixels.shape == (SIZE[1], SIZE[0], 3)  # upright, all of them
        self.calls += 1
        return [Box(self.kind, *self.place, 0.75)]
