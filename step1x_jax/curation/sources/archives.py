"""Photographs in tar files, as WebDataset has them: files of one stem are one sample.

Nothing is unpacked: members are read where they lie in the archive.
"""

import dataclasses
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.rows import Context, Outcome, Rejected
from step1x_jax.curation.engine.source import Unit, id_of
from step1x_jax.curation.sources.folder import PICTURES
from step1x_jax.curation.sources.photograph_rows import StoredPhotographs, cut
from step1x_jax.curation.sources.tables import files_below
from step1x_jax.data.paths import make_printable, stamp
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, reason
from step1x_jax.json_files import parse_json

LARGEST_JSON = 1 << 20  # bytes of a sample's metadata


@dataclasses.dataclass(frozen=True)
class _Member:
    """Where a file lies in an archive."""

    name: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Sample:
    """A picture, and what is said of it."""

    picture: _Member
    json: _Member | None


@dataclasses.dataclass
class WebDataset(StoredPhotographs):
    """Pictures of tar files, with `license` and `url` of the .json beside each.

    Of an archive that is truncated or damaged, what lies before the damage is taken; the damage is
    a row that is rejected. `path` is an archive that is not compressed, or a folder of such and all
    below it.
    """

    def units(self) -> Sequence[Unit]:
        """See `Source`."""
        units = []
        for path, name in files_below(self.path, ".tar"):
            samples, damage = _samples(path)
            sizes = [one.picture.size for one in samples]
            for number, group in enumerate(cut(samples, sizes, self.rows)):
                changes = digest_of(name, stamp(path) or "", number)
                units.append(Unit((str(path), name, group, ""), changes))
            if damage:
                changes = digest_of(name, stamp(path) or "", damage)
                units.append(Unit((str(path), name, [], damage), changes))
        return units

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """See `Source`."""
        path, name, samples, damage = payload
        if damage:
            yield id_of(name), Rejected("damaged_archive", damage, {"name": name})
        for sample in samples:
            inner = f"{name}/{sample.picture.name}"
            yield id_of(inner), self._row(path, inner, sample)

    def _row(self, path: str, name: str, sample: _Sample) -> Outcome:
        try:
            data = _read(path, sample.picture)
            text = _read(path, sample.json) if sample.json else b"{}"
        except OSError as e:
            return Rejected("unreadable_picture", f"{path}: {reason(e)}", {"name": name})
        try:
            values = parse_json(text, name)
        except UserError:
            values = None
        return self.photograph(data, name, values if isinstance(values, dict) else {})


def _samples(path: epath.Path) -> tuple[list[_Sample], str]:
    """The pictures of an archive in its order, and what is wrong behind the last one, or ""."""
    pictures: dict[str, _Member] = {}
    texts: dict[str, _Member] = {}
    damage = ""
    try:
        size = file_size(path)
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                end = info.offset_data + info.size
                if not info.isreg():
                    continue
                if end > size:
                    damage = f"it ends in the middle of {make_printable(info.name)}"
                    break
                stem, _, ending = info.name.rpartition("/")[2].partition(".")
                key = f"{info.name.rpartition('/')[0]}/{stem}"
                member = _Member(make_printable(info.name), info.offset_data, info.size)
                if f".{ending.lower()}".endswith(PICTURES):
                    pictures.setdefault(key, member)
                elif ending.lower() == "json" and info.size <= LARGEST_JSON:
                    texts.setdefault(key, member)
    except (tarfile.TarError, EOFError, ValueError) as e:
        damage = f"it is no whole tar file ({' '.join(str(e).split())})"
    except OSError as e:
        damage = f"it cannot be read ({reason(e)})"
    return [_Sample(member, texts.get(key)) for key, member in pictures.items()], damage


def _read(path: str, member: _Member) -> bytes:
    with epath.Path(path).open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)
