"""Random crops of the photographs that packages ship, as a source."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from step1x_jax.curation.embedded.descriptions import read_descriptions
from step1x_jax.curation.encoding import encode_png
from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.rows import ID, Context, Outcome
from step1x_jax.curation.engine.source import Source, Unit, id_of
from step1x_jax.curation.sources.photograph_rows import COLUMNS, check_rows, cut, photograph_row
from step1x_jax.curation.sources.photographs import assets_digest
from step1x_jax.errors import require


@dataclasses.dataclass
class EmbeddedCrops(Source):
    """Many crops of few photographs, squares and upright and lying ones in turn.

    All crops of a photograph are one group.

    Attributes:
      count: crops of all photographs but those in `apart`.
      apart: photographs to hold out, by name; their crops show most of them.
      apart_count: crops of each of these.
      size: level of the crops: about size^2 pixels each.
      rows: crops of a part, at most.
    """

    count: int = 200
    apart: tuple[str, ...] = ()
    apart_count: int = 6
    size: int = 128
    rows: int = 25

    writes: ClassVar = COLUMNS

    def validate(self) -> None:
        """See `Stage`."""
        check_rows(self.rows)
        require(1 <= self.count <= 100_000, "count", self.count, "give 1 to 100000")
        require(0 <= self.apart_count <= 1000, "apart_count", self.apart_count, "give 0 to 1000")
        require(32 <= self.size <= 512, "size", self.size, "give 32 to 512")
        known = list(read_descriptions())
        rest = set(known) - set(self.apart)
        require(
            set(self.apart) <= set(known) and bool(rest),
            "apart", self.apart, f"give some of {', '.join(known)}, but not all",
        )  # fmt: skip

    def units(self) -> Sequence[Unit]:
        """See `Source`."""
        names = [("", number) for number in range(self.count)]
        names += [(name, number) for name in self.apart for number in range(self.apart_count)]
        known = assets_digest()
        groups = cut(names, [0] * len(names), self.rows)
        return [Unit(group, digest_of(known, group)) for group in groups]

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """See `Source`."""
        # these need OpenCV
        from step1x_jax.curation.embedded.crops import (
            SMALLEST,
            WHOLE,
            draw_name,
            photograph,
            random_crop,
        )
        from step1x_jax.curation.embedded.photographs import SHAPES

        descriptions = read_descriptions()
        rest = [name for name in descriptions if name not in self.apart]
        shapes = list(SHAPES)
        for apart, number in payload:
            row = id_of(f"{apart} {number}")
            rng = context.rng({ID: row})
            name = apart or draw_name(rest, rng)
            crop = random_crop(
                photograph(name),
                shapes[number % len(shapes)],
                self.size,
                rng,
                WHOLE if apart else SMALLEST,
            )
            yield (
                row,
                photograph_row(
                    encode_png(crop),
                    f"{apart or 'crop'}_{number}",
                    group=name,
                    licence=descriptions[name].licence,
                    url=descriptions[name].url,
                ),
            )
