"""The pictures of one person who has the demo's page open, as files until the page is closed."""

import dataclasses
import pathlib
import secrets
import shutil

from PIL import Image

from launch.demonstration.queue import QueuedEdit

MOST_ENTRIES = 24  # the oldest make room
VIEW = 1280  # pixels along the longer side of what the page shows; downloads are whole
THUMBNAIL = 256


@dataclasses.dataclass(frozen=True)
class HistoryEntry:
    """A picture that came in, or a result.

    Attributes:
      label: what was done, in words.
      path: the whole picture, a PNG.
      view: as the page shows it.
      thumbnail: as the history shows it.
      before: the view of what it was made from; None: it came in.
    """

    label: str
    path: pathlib.Path
    view: pathlib.Path
    thumbnail: pathlib.Path
    before: pathlib.Path | None = None

    def picture(self) -> Image.Image:
        """The whole picture."""
        with Image.open(self.path) as image:
            return image.convert("RGB")


class Session:
    """The last pictures that one person uploaded and made; `source` is edited next."""

    def __init__(self, root: pathlib.Path) -> None:
        """Make a folder below `root`, with a name that nobody guesses: the server gives its files
        to whoever asks for them by name."""
        self._folder = root / secrets.token_urlsafe(16)
        self._folder.mkdir(parents=True, mode=0o700)
        self._made = 0
        self.entries: list[HistoryEntry] = []
        self.source: HistoryEntry | None = None
        self.shown: HistoryEntry | None = None  # the result on the page
        self.job: QueuedEdit | None = None  # its last edit

    def add(
        self, picture: Image.Image, label: str, source: HistoryEntry | None = None
    ) -> HistoryEntry:
        """Store a picture (RGB) as the last entry; `source` is what it was made from."""
        self._made += 1
        name = f"{'edited' if source else 'picture'}-{self._made}"
        entry = HistoryEntry(
            label,
            self._folder / f"{name}.png",
            self._folder / f"{name}-view.webp",
            self._folder / f"{name}-thumbnail.webp",
            source.view if source else None,
        )
        picture.save(entry.path, compress_level=1)  # six times as fast as the default
        for path, side in ((entry.view, VIEW), (entry.thumbnail, THUMBNAIL)):
            small = picture.copy()
            small.thumbnail((side, side))
            small.save(path, quality=90)
        self.entries.append(entry)
        self._forget()
        return entry

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _forget(self) -> None:
        """Remove the oldest entries beyond MOST_ENTRIES, but never the source."""
        extra = len(self.entries) - MOST_ENTRIES
        old = [entry for entry in self.entries if entry is not self.source][: max(extra, 0)]
        self.entries = [entry for entry in self.entries if entry not in old]
        kept = {entry.before for entry in self.entries}
        for entry in old:
            entry.path.unlink()
            entry.thumbnail.unlink()
            if entry.view not in kept:
                entry.view.unlink()
