"""What is known of the photographs at hand: assets/curation/photographs.json, typed.

Coordinates are pixels of the whole photograph, x before y; a box is left, top, right, bottom.
"""

import dataclasses
import functools
from collections.abc import Mapping

from etils import epath

import step1x_jax
from step1x_jax.curation.embedded.types import Words
from step1x_jax.json_files import build, read_json

FOLDER = epath.Path(step1x_jax.__file__).parent / "assets" / "curation"

Box = tuple[int, int, int, int]
Polygon = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class SubjectData:
    """Something that can be cut out.

    Attributes:
      name: short and unique.
      matte: file of its opacity, without ".png".
      a: what it is, when it appears ("an orange dahlia").
      the: what it is called afterwards ("the dahlia").
      manners: how it can be put: "lying" (seen from above), "worn", "front" (a bust at the bottom).
      box: where it is in the matte; None: the matte shows nothing else.
      bottom: a bust's lowest row that may be seen; below it the photograph cuts it off.
      turns: "none", "mirror" or "any" angle.
    """

    name: str
    matte: str
    a: Words
    the: Words
    manners: list[str]
    box: Box | None
    bottom: int | None
    turns: str


@dataclasses.dataclass(frozen=True)
class RegionData:
    """A part of one colour: where the polygons and the matte are, and the hue fits.

    Attributes:
      name: short.
      the: what it is called.
      colour: its colour now, a name of colours.py, or another word that is not used as a target.
      hue: degrees in Lab's a-b plane.
      width: degrees of hue on both sides that belong to it.
      chroma: the least chroma that belongs to it.
      matte: file, or None.
      polygons: parts, or none: the whole matte.
      part: "thing", or of a person "hair" or "lips".
    """

    name: str
    the: Words
    colour: str
    hue: float
    width: float
    chroma: float
    matte: str | None
    polygons: list[Polygon]
    part: str


@dataclasses.dataclass(frozen=True)
class PlaneData:
    """A flat surface.

    Attributes:
      the: what it is called.
      material: what it is made of now.
      corners: the picture of a rectangle in the plane, from its upper left, clockwise.
      size: the rectangle's width and height in cm.
      matte: file of where it is seen; None: everywhere.
      without: mattes of what stands before it.
      off: polygons that are not of it.
      textures: names of photographs that it can take.
    """

    the: Words
    material: Words
    corners: Polygon
    size: tuple[float, float]
    matte: str | None
    without: list[str]
    off: list[Polygon]
    textures: list[str]


@dataclasses.dataclass(frozen=True)
class SignData:
    """A flat and free rectangle that can carry text.

    Attributes:
      on: where it is ("on the table").
      corners: its picture, from its upper left, clockwise.
      ink: "light" or "dark", whichever can be read there.
      size: width and height in any one unit.
    """

    on: Words
    corners: Polygon
    ink: str
    size: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class PlaceData:
    """Where a subject can be put so that it could be there.

    Attributes:
      manner: see SubjectData.
      on: "on the table".
      box: of its centre; of a bust's lowest middle.
      holds: subject -> its smallest and largest width in pixels, from how large both are.
      the: what a subject here is called, where the photograph shows another one like it.
    """

    manner: str
    on: Words
    box: Box
    holds: dict[str, tuple[int, int]]
    the: Words | None


@dataclasses.dataclass(frozen=True)
class BackdropData:
    """A part of the photograph that can stand behind the subject of another one.

    Attributes:
      kind: "distance", "surface" (seen from above), "wall" or "sky".
      box: the part.
      words: what it shows.
    """

    kind: str
    box: Box
    words: Words


@dataclasses.dataclass(frozen=True)
class SceneData:
    """What stays when the background changes.

    Attributes:
      foreground: mattes that stay, joined.
      inverse: the mattes are of the background instead.
      the: what stays.
      background: what is behind it now.
      takes: kinds of backdrops that fit.
      shadow: it lies on its background and throws a shadow there.
    """

    foreground: list[str]
    inverse: bool
    the: Words
    background: Words
    takes: list[str]
    shadow: bool


@dataclasses.dataclass(frozen=True)
class DisparityData:
    """The true disparity of a stereo pair's left picture; depth goes as 1 / (disparity + offset).

    Attributes:
      file: an .npz file beside the photograph.
      array: its name in the file.
      offset: of the two principal points, in pixels.
    """

    file: str
    array: str
    offset: float


@dataclasses.dataclass(frozen=True)
class PhotographDescription:
    """A photograph: where it is, whose it is, and what is where in it.

    Attributes:
      package: import name of the package that ships it.
      file: in the package's folder.
      licence: and whose.
      url: where it is from.
      shows: what it shows.
      keep: the box that is of interest.
      outdoors: whether weather can be seen.
      light: direction in which shadows fall, x and y.
      subjects: see their classes, as for the rest.
      regions: ...
      planes: ...
      signs: ...
      places: ...
      backdrops: ...
      scene: None: no part stands out from a background.
      disparity: None: unknown.
      tint: factors of red, green and blue for a grey photograph of something coloured.
    """

    package: str
    file: str
    licence: str
    url: str
    shows: Words
    keep: Box
    outdoors: bool
    light: tuple[float, float]
    subjects: list[SubjectData]
    regions: list[RegionData]
    planes: list[PlaneData]
    signs: list[SignData]
    places: list[PlaceData]
    backdrops: list[BackdropData]
    scene: SceneData | None
    disparity: DisparityData | None
    tint: tuple[float, float, float]


@functools.cache
def read_descriptions() -> Mapping[str, PhotographDescription]:
    """All photographs by name, in a fixed order; read once."""
    path = FOLDER / "photographs.json"
    return build(dict[str, PhotographDescription], read_json(path), str(path))
