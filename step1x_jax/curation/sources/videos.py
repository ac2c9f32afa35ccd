"""Frames of videos, alone or in pairs: what moves between the two is an edit of motion."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from step1x_jax.curation.encoding import encode_png
from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.rows import Context, Outcome, Rejected
from step1x_jax.curation.engine.source import Source, Unit, id_of
from step1x_jax.curation.sources.photograph_rows import COLUMNS, photograph_row
from step1x_jax.curation.sources.tables import files_below
from step1x_jax.data.paths import stamp
from step1x_jax.errors import require

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


@dataclasses.dataclass
class VideoFrames(Source):
    """Frames at equal distances, one video to a part.

    All frames of a video are one group: they show nearly the same.

    Attributes:
      path: a video, or a folder of videos and all below it.
      every: seconds from one frame to the next.
      later: seconds after each frame at which a second one is taken, the column `later`; 0: none.
      most: frames of a video; a part has at most 128 MiB, or is split.
      licence: of all of them.
      url: likewise.
    """

    path: str = ""
    every: float = 2.0
    later: float = 0.0
    most: int = 32
    licence: str = ""
    url: str = ""

    writes: ClassVar = {**COLUMNS, "later": bytes}

    def validate(self) -> None:
        """See `Stage`."""
        require(self.every > 0, "every", self.every, "give seconds, such as 2")
        require(self.later >= 0, "later", self.later, "give seconds, or 0")
        require(self.most >= 1, "most", self.most, "give 1 or more")

    def units(self) -> Sequence[Unit]:
        """See `Source`."""
        found = files_below(self.path, *VIDEOS)
        return [Unit((str(path), name), digest_of(name, stamp(path) or "")) for path, name in found]

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """See `Source`."""
        path, name = payload
        wanted: dict[int, dict[str, np.ndarray]] = {}  # by number: the frames of a row
        rate = 0.0
        for number, rate, frame in _frames(path):
            step, gap = max(round(self.every * rate), 1), round(self.later * rate)
            first, rest = divmod(number, step)
            if rest == 0 and first < self.most:
                wanted[number] = {"frame": frame}
            if gap and number - gap in wanted:
                wanted[number - gap]["later"] = frame
                yield self._row(name, (number - gap) / rate, wanted.pop(number - gap))
            elif not gap and number in wanted:
                yield self._row(name, number / rate, wanted.pop(number))
            if first >= self.most and not wanted:
                break
        if not rate:
            detail = "no frame of it can be read"
            yield id_of(name), Rejected("unreadable_video", detail, {"name": name})

    def _row(self, name: str, seconds: float, frames: dict[str, np.ndarray]) -> tuple[str, Outcome]:
        inner = f"{name} {seconds:.3f} s"
        row = photograph_row(
            encode_png(frames["frame"]), inner, group=name, licence=self.licence, url=self.url
        )
        if isinstance(row, dict) and "later" in frames:
            row["later"] = encode_png(frames["later"])
        return id_of(inner), row


def _frames(path: str) -> Iterator[tuple[int, float, np.ndarray]]:
    """Number, frames a second, and (H, W, 3) uint8 of each frame of a video."""
    from step1x_jax.curation.embedded.opencv import cv2

    video = cv2.VideoCapture(path)
    try:
        rate = video.get(cv2.CAP_PROP_FPS) or 25.0
        number = 0
        while True:
            there, frame = video.read()
            if not there:
                return
            yield number, rate, np.ascontiguousarray(frame[..., ::-1])
            number += 1
    finally:
        video.release()
