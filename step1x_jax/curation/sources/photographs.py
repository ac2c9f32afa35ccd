"""The photographs that packages ship, as a source."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from step1x_jax.curation.embedded.descriptions import FOLDER
from step1x_jax.curation.embedded.photographs import Photograph, load_photographs
from step1x_jax.curation.encoding import encode_png
from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.rows import Context, Outcome
from step1x_jax.curation.engine.source import Source, Unit, id_of
from step1x_jax.curation.sources.photograph_rows import COLUMNS, check_rows, cut, photograph_row


@dataclasses.dataclass
class EmbeddedPhotographs(Source):
    """Views of several shapes of scikit-image's, scikit-learn's and matplotlib's photographs.

    All views of a photograph are one group.

    Attributes:
      rows: views of a part, at most.
    """

    rows: int = 2

    writes: ClassVar = COLUMNS

    def validate(self) -> None:
        """See `Stage`."""
        check_rows(self.rows)

    def units(self) -> Sequence[Unit]:
        """See `Source`."""
        names = list(embedded_views())
        known = assets_digest()
        groups = cut(names, [0] * len(names), self.rows)
        return [Unit(group, digest_of(known, group)) for group in groups]

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """See `Source`."""
        for name in payload:
            view = embedded_views()[name]
            yield (
                id_of(name),
                photograph_row(
                    encode_png(view.pixels),
                    name,
                    group=view.original,
                    licence=view.licence,
                    url=view.url,
                ),
            )


@functools.cache
def embedded_views() -> dict[str, Photograph]:
    """All views by name, loaded once.

    Raises:
      UserError: a package is missing.
    """
    return {view.name: view for view in load_photographs()}


@functools.cache
def assets_digest() -> str:
    """Changes with what is known of the photographs: descriptions and mattes."""
    files = sorted([*FOLDER.glob("*.json"), *FOLDER.glob("*.png")])
    return digest_of(*([file.name, file.read_bytes()] for file in files))
