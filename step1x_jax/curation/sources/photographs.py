"""The photographs that packages ship, as a source."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from step1x_jax.curation.embedded.descriptions import assets_digest
from step1x_jax.curation.embedded.encoding import encode_png
from step1x_jax.curation.embedded.photographs import load_photographs
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
        names = [one.name for one in load_photographs()]
        digest = assets_digest()
        return [
            Unit(group, digest_of(digest, group)) for group in cut(names, [0] * len(names), self.rows)
        ]

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """See `Source`."""
        views = {one.name: one for one in load_photographs()}
        for name in payload:
            view = views[name]
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
