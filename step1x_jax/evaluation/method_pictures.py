"""Paths of a method's pictures, and which of them exist.

RESULTS/METHOD/fullset/TASK/LANG/KEY.png in the layout "fullset", RESULTS/METHOD/KEY.png in the flat
one. Pictures of others may have any ending of a picture, and any other files beside them.
"""

import collections
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image, read_image_bytes
from step1x_jax.conditioning.picture_formats import usable_formats
from step1x_jax.errors import UserError
from step1x_jax.evaluation.names import check_name
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.files import find, user_path

Layout = Literal["fullset", "flat"]

FULLSET = "fullset"
PAIRS = "pairs"  # beside the methods' folders: verdicts on pairs


class MethodPicture(NamedTuple):
    """A sample's picture of a method.

    Attributes:
      status: "unreadable" is a file that is there but holds no picture.
      path: the file; None: it is missing.
      reason: why it cannot be read.
    """

    status: Literal["readable", "missing", "unreadable"]
    path: epath.Path | None
    reason: str = ""


def method_folder(results: str, method: str) -> epath.Path:
    """The folder of a method's results.

    Args:
      results: folder of all methods, as the user gave it.
      method: its name.

    Raises:
      UserError: the name is no name of a folder, or means something else.
    """
    check_name(method, "the method's name")
    if method == PAIRS:
        raise UserError(f"no method can be called {PAIRS}, for the verdicts on pairs are there.")
    return epath.Path(user_path(results)) / method


def picture_path(folder: epath.PathLike, sample: SampleId, layout: Layout) -> epath.Path:
    """Return the path to which we write a sample's picture.

    Args:
      folder: of the method.
      sample: whose.
      layout: the benchmark's.
    """
    return _place(epath.Path(folder), sample, layout) / f"{sample.key}.png"


def _place(folder: epath.Path, sample: SampleId, layout: Layout) -> epath.Path:
    if layout == "flat":
        return folder
    return folder / FULLSET / sample.task / sample.language


def find_pictures(
    folder: epath.PathLike, samples: Iterable[SampleId], layout: Layout
) -> dict[SampleId, epath.Path | None]:
    """The file of each sample's picture; None: it is missing. No file is opened.

    Args:
      folder: of the method.
      samples: whose pictures are wanted.
      layout: the benchmark's.

    Raises:
      UserError: a folder cannot be listed, or there are two pictures of a sample.
    """
    formats = usable_formats()
    endings = {end for end, name in Image.registered_extensions().items() if name in formats}
    listed: dict[epath.Path, dict[str, list[epath.Path]]] = {}
    found: dict[SampleId, epath.Path | None] = {}
    for sample in samples:
        place = _place(epath.Path(folder), sample, layout)
        if place not in listed:
            listed[place] = collections.defaultdict(list)
            for file in find(place, "[!.]*"):
                if file.suffix.lower() in endings:
                    listed[place][file.stem].append(file)
        files = listed[place].get(sample.key, [])
        if len(files) > 1:
            raise UserError(
                f"{place} has {', '.join(file.name for file in files)}: which one counts? Remove"
                " the others."
            )
        found[sample] = files[0] if files else None
    return found


def look_at_pictures(
    folder: epath.PathLike,
    samples: Iterable[SampleId],
    layout: Layout,
    tell: Callable[[], object] = lambda: None,
) -> dict[SampleId, MethodPicture]:
    """Find the samples that have a readable picture; decode all files.

    Args:
      folder: of the method.
      samples: whose pictures are wanted.
      layout: the benchmark's.
      tell: is called after each.

    Raises:
      UserError: see `find_pictures`.
    """
    looked = {}
    for sample, path in find_pictures(folder, samples, layout).items():
        looked[sample] = MethodPicture("missing", None) if path is None else look_at(path)
        tell()
    return looked


def look_at(path: epath.Path) -> MethodPicture:
    """Whether a file that is there holds a picture."""
    try:
        decode_image(read_image_bytes(path), str(path))
    except UserError as e:
        return MethodPicture("unreadable", path, str(e))
    return MethodPicture("readable", path)
