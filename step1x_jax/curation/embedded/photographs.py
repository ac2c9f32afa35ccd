"""Photographs that packages ship, in views of several shapes, with what is known of them.

Nothing is downloaded: the files lie in the folders of scikit-image, scikit-learn and matplotlib,
which are not imported. Their mattes (drawn by hand, see assets/curation/README.md) are ours.

H height, W width.
"""

import dataclasses
import functools
import importlib.util

import numpy as np
from etils import epath
from PIL import Image, ImageDraw

from step1x_jax.curation.embedded.colours import (
    hue_and_chroma,
    smoothstep,
    to_float,
    to_lab,
    to_uint8,
)
from step1x_jax.curation.embedded.descriptions import (
    FOLDER,
    BackdropData,
    Box,
    PhotographDescription,
    PlaceData,
    Polygon,
    SceneData,
    SignData,
    SubjectData,
    read_descriptions,
)
from step1x_jax.curation.embedded.types import Words
from step1x_jax.errors import UserError

# Width to height: squares, and what cameras and telephones make, upright and lying.
SHAPES = {"1x1": (1, 1), "3x2": (3, 2), "2x3": (2, 3), "4x3": (4, 3), "3x4": (3, 4)}
LONGEST = (
    640  # pixels; what is larger is made smaller, so that an edit takes a fraction of a second
)
HUE_EDGE = 8.0  # degrees over which a region's membership fades
CHROMA_EDGE = 6.0
GREYEST = 2.3  # mean chroma below which nobody sees a colour: a just noticeable difference


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A subject of this view: its words, and its opacity (H, W) float32 in [0, 1]."""

    data: SubjectData
    alpha: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A part of one colour: (H, W) float32 weights in [0, 1]."""

    name: str
    the: Words
    colour: str
    part: str
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
    """A flat surface: corners (4, 2) float32 of a rectangle of `size` cm, alpha (H, W) float32."""

    the: Words
    material: Words
    corners: np.ndarray
    size: tuple[float, float]
    alpha: np.ndarray
    textures: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Photograph:
    """A view of a photograph: a crop of one shape.

    Attributes:
      name: "coffee_3x2".
      original: the whole photograph's name, the same for all of its views.
      pixels: (H, W, 3) uint8.
      licence: and whose.
      url: where it is from.
      shows: what it shows.
      outdoors: whether weather can be seen.
      grey: it is black and white.
      light: direction in which shadows fall, x and y.
      disparity: (H, W) float32, NaN where unknown; depth goes as its inverse. None: unknown.
      subjects: what can be cut out, whole in this view.
      regions: parts of one colour.
      planes: flat surfaces.
      signs: flat rectangles for text, whole in this view.
      places: where subjects can be put.
      backdrops: parts that can stand behind something else.
      scene: what stays when the background changes, with its alpha; None: nothing stands out.
      foreground: (H, W) float32 of the scene, or None.
    """

    name: str
    original: str
    pixels: np.ndarray
    licence: str
    url: str
    shows: Words
    outdoors: bool
    grey: bool
    light: tuple[float, float]
    disparity: np.ndarray | None
    subjects: tuple[Subject, ...]
    regions: tuple[Region, ...]
    planes: tuple[Plane, ...]
    signs: tuple[SignData, ...]
    places: tuple[PlaceData, ...]
    backdrops: tuple[BackdropData, ...]
    scene: SceneData | None
    foreground: np.ndarray | None


def load_photographs() -> tuple[Photograph, ...]:
    """All views of all photographs: at each shape the largest one around what is of interest.

    A view that shows nearly the same as one of another shape is left out.

    Raises:
      UserError: a package is missing, or does not ship a file.
    """
    views = []
    for name, description in read_descriptions().items():
        whole = _read_whole(name, description)
        boxes: list[Box] = []
        for shape, (width, height) in SHAPES.items():
            size = largest_box(whole.pixels.shape[1], whole.pixels.shape[0], width / height)
            box = _centred(size, whole.pixels.shape, description.keep, _scale(description))
            if all(_overlap(box, other) < 0.95 for other in boxes):
                boxes.append(box)
                views.append(crop_photograph(whole, box, f"{name}_{shape}"))
    return tuple(views)


@functools.cache
def load_originals() -> dict[str, Photograph]:
    """The whole photographs by name, once (their arrays are read-only).

    Raises:
      UserError: as `load_photographs`.
    """
    return {n: _read_whole(n, description) for n, description in read_descriptions().items()}


def crop_photograph(whole: Photograph, box: Box, name: str) -> Photograph:
    """The part of a photograph in a box, with all that is known of it there."""
    left, top, right, bottom = box
    inside = (slice(top, bottom), slice(left, right))
    shift = np.array([left, top], np.float32)

    def moved(polygon: Polygon) -> Polygon:
        return [(x - left, y - top) for x, y in polygon]

    def is_whole(polygon: Polygon) -> bool:
        return all(left <= x <= right and top <= y <= bottom for x, y in polygon)

    def moved_box(inner: Box) -> Box:
        x = (max(inner[0] - left, 0), min(inner[2], right) - left)
        y = (max(inner[1] - top, 0), min(inner[3], bottom) - top)
        return x[0], y[0], x[1], y[1]

    subjects = [s for s in whole.subjects if _is_inside(s, box)]
    places = [
        dataclasses.replace(p, box=moved_box(p.box))
        for p in whole.places
        if p.box[0] < right and p.box[2] > left and p.box[1] <= bottom and p.box[3] >= top
    ]
    backdrops = [dataclasses.replace(b, box=moved_box(b.box)) for b in whole.backdrops]
    return dataclasses.replace(
        whole,
        name=name,
        pixels=whole.pixels[inside],
        disparity=None if whole.disparity is None else whole.disparity[inside],
        subjects=tuple(_crop_subject(s, box) for s in subjects),
        regions=tuple(
            dataclasses.replace(r, weights=r.weights[inside])
            for r in whole.regions
            if r.weights[inside].sum() > 0.8 * r.weights.sum()
        ),
        planes=tuple(
            dataclasses.replace(p, alpha=p.alpha[inside], corners=p.corners - shift)
            for p in whole.planes
        ),
        signs=tuple(
            dataclasses.replace(s, corners=moved(s.corners))
            for s in whole.signs
            if is_whole(s.corners)
        ),
        places=tuple(p for p in places if p.box[0] <= p.box[2] and p.box[1] <= p.box[3]),
        backdrops=tuple(b for b in backdrops if b.box[2] > b.box[0] and b.box[3] > b.box[1]),
        foreground=None if whole.foreground is None else whole.foreground[inside],
    )


def _crop_subject(subject: Subject, box: Box) -> Subject:
    left, top, right, bottom = box
    last = subject.data.bottom
    data = subject.data if last is None else dataclasses.replace(subject.data, bottom=last - top)
    return Subject(data, subject.alpha[top:bottom, left:right])


def find_file(package: str, file: str) -> epath.Path:
    """A file in an installed package's folder; the package is not imported.

    Raises:
      UserError: the package is missing, or does not ship the file.
    """
    spec = importlib.util.find_spec(package)
    for folder in list(spec.submodule_search_locations or []) if spec is not None else []:
        if (path := epath.Path(folder) / file).exists():
            return path
    raise UserError(
        f"{file} ships with the package {package}, which is missing here:"
        ' pip install "step1x_jax[curation]"'
    )


def read_pixels(description: PhotographDescription) -> np.ndarray:
    """A photograph as (H, W, 3) uint8, read-only, at no more than LONGEST pixels.

    Raises:
      UserError: as `find_file`.
    """
    path = find_file(description.package, description.file)
    with path.open("rb") as file, Image.open(file) as image:
        picture = image.convert("RGB")
    scale = _scale(description)
    if scale < 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(picture)
    if description.tint != (1, 1, 1):
        pixels = to_uint8(to_float(pixels) * np.array(description.tint, np.float32))
    return _frozen(pixels)


def _read_whole(name: str, description: PhotographDescription) -> Photograph:
    """A photograph with all mattes, at no more than LONGEST pixels."""
    pixels = read_pixels(description)
    whole = _sizes(description.package, description.file)
    scale = _scale(description)
    size = (pixels.shape[1], pixels.shape[0])
    mattes = functools.cache(lambda matte: _read_matte(matte, whole, size))

    def points(polygon: Polygon) -> Polygon:
        return [(x * scale, y * scale) for x, y in polygon]

    def box(values: Box) -> Box:
        left, top, right, bottom = (round(v * scale) for v in values)
        return left, top, right, bottom

    subjects = []
    for subject in description.subjects:
        alpha = mattes(subject.matte)
        if subject.box is not None:
            left, top, right, bottom = box(subject.box)
            only = np.zeros_like(alpha)
            only[top:bottom, left:right] = alpha[top:bottom, left:right]
            alpha = only
        bottom_row = None if subject.bottom is None else round(subject.bottom * scale)
        subjects.append(Subject(dataclasses.replace(subject, bottom=bottom_row), _frozen(alpha)))

    regions = []
    lab = to_lab(pixels)
    hue, chroma = hue_and_chroma(lab)
    for region in description.regions:
        away = np.abs((hue - region.hue + 180) % 360 - 180)
        weights = smoothstep((region.width + HUE_EDGE - away) / HUE_EDGE)
        weights *= smoothstep((chroma - region.chroma + CHROMA_EDGE) / CHROMA_EDGE)
        if region.polygons:
            parts = [fill_polygon(points(p), size) for p in region.polygons]
            weights = weights * np.max(parts, axis=0)
        if region.matte is not None:
            weights = weights * mattes(region.matte)
        weights = _frozen(weights.astype(np.float32))
        regions.append(Region(region.name, region.the, region.colour, region.part, weights))

    planes = []
    for plane in description.planes:
        alpha = np.ones(pixels.shape[:2], np.float32)
        if plane.matte is not None:
            alpha = alpha * mattes(plane.matte)
        for other in plane.without:
            alpha = alpha * (1 - mattes(other))
        for polygon in plane.off:
            alpha = alpha * (1 - fill_polygon(points(polygon), size))
        corners = np.array(points(plane.corners), np.float32)
        textures = tuple(plane.textures)
        planes.append(
            Plane(plane.the, plane.material, corners, plane.size, _frozen(alpha), textures)
        )

    scene, foreground = description.scene, None
    if scene is not None:
        foreground = np.max([mattes(matte) for matte in scene.foreground], axis=0)
        foreground = _frozen(1 - foreground if scene.inverse else foreground)
    return Photograph(
        name,
        name,
        pixels,
        description.licence,
        description.url,
        description.shows,
        description.outdoors,
        bool(chroma.mean() < GREYEST),
        description.light,
        _read_disparity(description, scale),
        tuple(subjects),
        tuple(regions),
        tuple(planes),
        tuple(dataclasses.replace(s, corners=points(s.corners)) for s in description.signs),
        tuple(
            dataclasses.replace(
                p,
                box=box(p.box),
                holds={n: (round(a * scale), round(b * scale)) for n, (a, b) in p.holds.items()},
            )
            for p in description.places
        ),
        tuple(dataclasses.replace(b, box=box(b.box)) for b in description.backdrops),
        scene,
        foreground,
    )


@functools.cache
def _sizes(package: str, file: str) -> tuple[int, int]:
    with find_file(package, file).open("rb") as data, Image.open(data) as image:
        return image.size


def _scale(description: PhotographDescription) -> float:
    """By which a photograph is made smaller; a stereo pair stays as large as its disparity."""
    if description.disparity is not None:
        return 1.0
    return min(1.0, LONGEST / max(_sizes(description.package, description.file)))


def _read_matte(name: str, whole: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    with (FOLDER / f"{name}.png").open("rb") as file, Image.open(file) as image:
        assert image.size == whole, name  # our own file
        matte = image.convert("L").resize(size, Image.Resampling.BOX)
    return np.asarray(matte, np.float32) / 255


def _read_disparity(description: PhotographDescription, scale: float) -> np.ndarray | None:
    if description.disparity is None:
        return None
    assert scale == 1
    path = find_file(description.package, description.disparity.file)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        disparity = arrays[description.disparity.array].astype(np.float32)
    disparity = disparity + description.disparity.offset
    disparity[~np.isfinite(disparity)] = np.nan
    return _frozen(disparity)


def fill_polygon(polygon: Polygon, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 in [0, 1]: how much of each pixel is inside, at 4 x 4 points of it."""
    width, height = size
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).polygon([(4 * x, 4 * y) for x, y in polygon], fill=255)
    return np.asarray(large.resize(size, Image.Resampling.BOX), np.float32) / 255


def largest_box(width: int, height: int, ratio: float) -> tuple[int, int]:
    """Width and height of the largest box of a ratio."""
    if width > ratio * height:
        return round(ratio * height), height
    return width, round(width / ratio)


def _centred(size: tuple[int, int], shape: tuple[int, ...], keep: Box, scale: float) -> Box:
    """A box of that size, around the middle of what is of interest, inside the picture."""
    middle = ((keep[0] + keep[2]) / 2 * scale, (keep[1] + keep[3]) / 2 * scale)
    left = int(np.clip(round(middle[0] - size[0] / 2), 0, shape[1] - size[0]))
    top = int(np.clip(round(middle[1] - size[1] / 2), 0, shape[0] - size[1]))
    return left, top, left + size[0], top + size[1]


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return common / (sum(areas) - common)


def _is_inside(subject: Subject, box: Box) -> bool:
    """Whether what may be seen of a subject is in the box, but for a hundredth."""
    left, top, right, bottom = box
    seen = subject.alpha[: subject.data.bottom]
    return bool(seen[top:bottom, left:right].sum() >= 0.99 * seen.sum())


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
