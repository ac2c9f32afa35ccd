"""Photographs of a folder and all below it."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.rows import Context, Outcome, Rejected
from step1x_jax.curation.engine.source import Unit, id_of
from step1x_jax.curation.sources.photograph_rows import LICENCE, URL, StoredPhotographs, cut
from step1x_jax.data.json_readers import read_json_lines
from step1x_jax.data.paths import make_printable, stamp, walk
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, reason, user_path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jp2")
METADATA = "metadata.jsonl"  # beside pictures, as in Hugging Face's imagefolder
FILE_NAME = "file_name"  # its field that names a picture


@dataclasses.dataclass
class ImageFolder(StoredPhotographs):
    """Files that are named like pictures, in the order of their paths.

    Fields `licence` and `url` of a line of metadata.jsonl are of the picture that its `file_name`
    names, in the same folder. `path` is the folder.
    """

    def units(self) -> Sequence[Unit]:
        """See `Source`."""
        root = epath.Path(user_path(self.path))
        if not root.is_dir():
            raise UserError(f"{root} is no folder; give one with pictures.")
        files: list[tuple[str, str, dict[str, Any]]] = []
        sizes: list[int] = []
        for folder, names, error in walk(root):
            if error is not None:
                raise UserError(f"{folder} cannot be listed ({reason(error)}); check its rights.")
            facts = _metadata(folder / METADATA) if METADATA in names else {}
            for name in names:
                if name.lower().endswith(PICTURES):
                    path = folder / name
                    inner = path.relative_to(root).as_posix()
                    files.append((str(path), make_printable(inner), facts.get(name, {})))
                    sizes.append(_size(path))
        if not files:
            raise UserError(f"{root} has no pictures; they end in {', '.join(PICTURES)}.")
        return [Unit(group, _stamps(group)) for group in cut(files, sizes, self.rows)]

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """See `Source`."""
        for path, name, facts in payload:
            yield id_of(name), self._row(path, name, facts)

    def _row(self, path: str, name: str, facts: dict[str, Any]) -> Outcome:
        try:
            data = read_image_bytes(path)
        except UserError as e:
            return Rejected("unreadable_picture", str(e), {"name": name})
        return self.photograph(data, name, facts)


def _metadata(path: epath.Path) -> dict[str, dict[str, Any]]:
    """Lines of a metadata.jsonl by the file that each names; lines that name none are left out."""
    lines = [row for _, row in read_json_lines(path) if isinstance(row, dict)]
    known = (*LICENCE, *URL)
    return {
        row[FILE_NAME]: {name: row[name] for name in known if name in row}
        for row in lines
        if isinstance(row.get(FILE_NAME), str)
    }


def _size(path: epath.Path) -> int:
    try:
        return file_size(path)
    except OSError:  # told when it is read
        return 0


def _stamps(files: list[tuple[str, str, dict[str, Any]]]) -> str:
    """Changes when a file does, or what is said of it."""
    return digest_of(*([name, _stamp(path), repr(said)] for path, name, said in files))


def _stamp(path: str) -> str:
    try:
        return stamp(path) or ""
    except OSError:
        return ""
