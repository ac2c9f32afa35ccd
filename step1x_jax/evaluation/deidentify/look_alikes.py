"""Look-alikes of a picture in a folder of public ones, by three measures that need no network.

- A perceptual hash: which of 63 low frequencies of the grey picture are above their median. It
  finds the same picture again, rescaled, compressed, mirrored or with other colours, but not if
  more than a few per cent were cut off.
- Colours on a grid of 8 x 8: pictures with like colours at like places.
- Histograms of edge directions on a grid of 4 x 4: pictures of like structure, whatever colours.

Together they find copies, and pictures of like composition: a horizon at the same height, an object
of that size in the middle. They do not find the same kind of object at another place, at another
size or from another side, and they know nothing of what is shown: a person chooses.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable

import numpy as np
import scipy.fft
from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image, read_image_bytes
from step1x_jax.conditioning.picture_formats import usable_formats
from step1x_jax.data.paths import walk
from step1x_jax.errors import UserError
from step1x_jax.evaluation.deidentify.findings import LookAlike
from step1x_jax.files import reason

HASH_SIDE, HASH_FREQUENCIES = 32, 8
GRID = 8
EDGE_SIDE, EDGE_CELLS, EDGE_BINS = 64, 4, 8
SAME_BITS = 10  # of 63 up to which it is the same picture; strangers differ in 20 and more
COUNT = 5  # look-alikes of a picture


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """The features of a picture that are compared.

    Attributes:
      bits: (63,) bool, low frequencies that are above their median.
      colour: (8, 8, 3) float32, mean YCbCr values of parts, in levels.
      edges: (4, 4, 8) float32, of length 1 (or 0): how strong edges of a direction are in a part.
    """

    bits: np.ndarray
    colour: np.ndarray
    edges: np.ndarray


def describe_picture(picture: Image.Image) -> Descriptor:
    """Measure an RGB picture."""
    grey = picture.convert("L")
    small = np.asarray(grey.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BOX), np.float64)
    low = scipy.fft.dctn(small, norm="ortho")[:HASH_FREQUENCIES, :HASH_FREQUENCIES].ravel()[1:]
    grid = picture.resize((GRID, GRID), Image.Resampling.BOX).convert("YCbCr")
    return Descriptor(low > np.median(low), np.asarray(grid, np.float32), _edges(grey))


def _edges(grey: Image.Image) -> np.ndarray:
    """(4, 4, 8): the strength of edges, shared out between the nearest parts and directions."""
    side = (EDGE_SIDE, EDGE_SIDE)
    down, across = np.gradient(np.asarray(grey.resize(side, Image.Resampling.BOX), np.float64))
    energy = down**2 + across**2
    angle = np.arctan2(down, across) % np.pi / np.pi * EDGE_BINS  # an edge has no sign
    away = np.abs(angle[..., None] - np.arange(EDGE_BINS))
    of_bin = np.maximum(0, 1 - np.minimum(away, EDGE_BINS - away))  # (64, 64, 8)
    middles = (np.arange(EDGE_CELLS) + 0.5) * EDGE_SIDE / EDGE_CELLS - 0.5
    apart = np.abs(middles[:, None] - np.arange(EDGE_SIDE)) * EDGE_CELLS / EDGE_SIDE
    of_cell = np.maximum(0, 1 - apart)  # (4, 64)
    counts = np.sqrt(np.einsum("ri,cj,ij,ijb->rcb", of_cell, of_cell, energy, of_bin))
    return (counts / max(float(np.linalg.norm(counts)), 1e-9)).astype(np.float32)


class PublicPictures:
    """The pictures of a folder, measured."""

    def __init__(self, folder: epath.PathLike, tell: Callable[[], object] = lambda: None):
        """Read all pictures of a folder and of those below it.

        Args:
          folder: of pictures that may be published.
          tell: is called after each.

        Raises:
          UserError: there is no picture in it, or it cannot be listed.
        """
        formats = usable_formats()
        endings = {end for end, name in Image.registered_extensions().items() if name in formats}
        self.files: list[str] = []
        self.digests: list[str] = []
        self.unreadable = 0
        descriptors = []
        for place, names, error in walk(epath.Path(folder)):
            if error is not None:
                raise UserError(
                    f"{place} cannot be listed ({reason(error)}); check its rights, or give another"
                    " --public."
                )
            for name in names:
                file = place / name
                if file.suffix.lower() not in endings:
                    continue
                try:
                    name = os.fspath(file).encode(errors="strict").decode()  # findings are JSON
                    data = read_image_bytes(file)
                    descriptors.append(describe_picture(decode_image(data, str(file))))
                except (UserError, UnicodeEncodeError):
                    self.unreadable += 1
                    continue
                self.files.append(os.path.relpath(name, folder))
                self.digests.append(hashlib.sha256(data).hexdigest())
                tell()
        if not descriptors:
            raise UserError(f"{folder} has no pictures that can be read; give another --public.")
        self._bits = np.stack([one.bits for one in descriptors])
        self._colour = np.stack([one.colour for one in descriptors])
        self._edges = np.stack([one.edges for one in descriptors])

    def find(self, picture: Image.Image, count: int = COUNT) -> list[LookAlike]:
        """Copies of a picture, then what resembles it most: by the ranks in colours and edges.

        Of each measure the smaller value counts, of the picture and of its mirror image.
        """
        mirrored = self._compare(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        both = zip(self._compare(picture), mirrored, strict=True)
        bits, colour, edges = (np.minimum(*pair) for pair in both)
        ranks = _ranks(colour) + _ranks(edges)  # the hash of what is no copy is chance
        same = bits <= SAME_BITS
        best = np.lexsort([np.arange(len(bits)), colour, ranks, ~same])[:count]
        return [
            LookAlike(
                file=self.files[i],
                digest=self.digests[i],
                hash_bits=int(bits[i]),
                colour=round(float(colour[i]), 3),
                edges=round(float(edges[i]), 4),
                same=bool(same[i]),
            )
            for i in best
        ]

    def _compare(self, picture: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How much each picture differs from one, by the three measures."""
        wanted = describe_picture(picture)
        edges = (self._edges - wanted.edges).reshape(len(self.files), -1)
        # of unit vectors without negative entries the distance is at most the square root of 2
        return (
            (self._bits != wanted.bits).sum(1),
            np.abs(self._colour - wanted.colour).mean((1, 2, 3)),
            np.minimum(np.linalg.norm(edges, axis=1) / 2**0.5, 1),
        )


def _ranks(values: np.ndarray) -> np.ndarray:
    """How many are smaller; equal values have equal ranks."""
    return np.searchsorted(np.sort(values), values)
