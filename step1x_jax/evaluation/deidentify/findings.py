"""findings.json: what a scan found in each picture. It is as private as the pictures are."""

import dataclasses
from typing import Annotated, Literal

from etils import epath
from msgspec import Meta

from step1x_jax.bounds import Fraction, Pixels
from step1x_jax.errors import UserError
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.json_files import as_json, build, read_json, write_json

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # SHA-256, in hexadecimal digits
Place = Annotated[int, Meta(ge=0, le=1 << 26)]  # pixels from the left or the top


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle of a picture in which something was found.

    Attributes:
      kind: what.
      x0: its left side, in pixels of the upright picture.
      y0: its top.
      x1: the first column right of it.
      y1: the first row below it.
      score: how sure the detector is.
    """

    kind: Literal["face", "text", "plate"]
    x0: Place
    y0: Place
    x1: Place
    y1: Place
    score: Fraction


@dataclasses.dataclass(frozen=True)
class LookAlike:
    """A public picture that resembles a private one.

    Attributes:
      file: its path in the folder of public pictures.
      digest: SHA-256 of the file.
      hash_bits: bits of the perceptual hash that differ, of 63.
      colour: mean difference of colours on a grid, in levels.
      edges: distance of the histograms of edges, 0 to 1.
      same: whether it is most likely the private picture itself, in another file.
    """

    file: str
    digest: Digest
    hash_bits: Annotated[int, Meta(ge=0, le=63)]
    colour: Annotated[float, Meta(ge=0, le=255)]
    edges: Fraction
    same: bool


@dataclasses.dataclass(frozen=True)
class RequestedEdit:
    """An edit that the data set asks of a picture."""

    task: str
    language: str
    key: str
    instruction: str

    @property
    def id(self) -> SampleId:
        """The id of its sample."""
        return SampleId(self.task, self.language, self.key)


@dataclasses.dataclass(frozen=True)
class PictureFindings:
    """The findings in a picture, and the samples that use it.

    Attributes:
      digest: SHA-256 of its file, by which it is known.
      width: in pixels, upright.
      height: likewise.
      metadata: kinds of metadata in its file, such as "GPS position".
      boxes: faces, text and plates.
      look_alikes: public pictures, those that resemble it most first.
      requests: the samples that have this picture.
    """

    digest: Digest
    width: Pixels
    height: Pixels
    metadata: list[str]
    boxes: list[Box]
    look_alikes: list[LookAlike]
    requests: list[RequestedEdit]


@dataclasses.dataclass(frozen=True)
class Findings:
    """The findings of a scan.

    Attributes:
      format: of this file.
      scan: its name; decisions carry it.
      secret: of which the exported keys are made, in hexadecimal digits.
      benchmark: whose columns the data set has.
      source: the column that was looked at.
      detectors: by name, the library and version that looked.
      pictures: in the data set's order.
      unreadable: reasons, one for each sample whose picture could not be read.
    """

    format: Literal[1]
    scan: str
    secret: Digest
    benchmark: str
    source: str
    detectors: dict[str, str]
    pictures: list[PictureFindings]
    unreadable: list[str]


def read_findings(path: epath.PathLike) -> Findings:
    """Read what `write_findings` wrote.

    Raises:
      UserError: it is not there or holds something else.
    """
    findings: Findings = build(Findings, read_json(path), str(path))
    for picture in findings.pictures:
        for box in picture.boxes:
            if not (box.x0 < box.x1 <= picture.width and box.y0 < box.y1 <= picture.height):
                raise UserError(f"{path} has a box outside of its picture; scan again.")
    return findings


def write_findings(path: epath.PathLike, findings: Findings) -> None:
    """Write findings, completely or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    write_json(path, as_json(findings))
