"""The edits that need no model: embedded/methods.py as a stage."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded.types import Edit, Rejection
from step1x_jax.curation.encoding import encode_mask, encode_png
from step1x_jax.curation.engine.rows import ID, Context, Outcome, Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each
from step1x_jax.curation.sources.photographs import assets_digest, embedded_views
from step1x_jax.errors import require

if TYPE_CHECKING:
    from step1x_jax.curation.embedded.photographs import Photograph


@dataclasses.dataclass
class EmbeddedEdits(Stage):
    """Edits of each category of the embedded photographs; those that pass no gate are rejected.

    Attributes:
      count: edits of a category that are tried with a photograph.
      categories: of these alone.
    """

    count: int = 2
    categories: tuple[str, ...] = tuple(map(str, Category))

    reads: ClassVar = {"name": str}
    writes: ClassVar = {
        "category": str,
        "source": bytes,
        "target": bytes,
        "mask": bytes,
        "facts": dict,
        "slots": dict,
        "groups": list[str],  # of all photographs that the pixels are from, the row's own first
        "licences": list[str],
        "urls": list[str],
        "method": str,
    }
    many: ClassVar = True

    def validate(self) -> None:
        """See `Stage`."""
        require(1 <= self.count <= 1000, "count", self.count, "give 1 to 1000")
        known = bool(self.categories) and set(self.categories) <= set(Category)
        require(known, "categories", self.categories, f"give some of {', '.join(Category)}")

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        return {"assets": assets_digest()}

    def open(self) -> Operator:
        """See `Stage`."""
        from step1x_jax.curation.embedded.methods import METHODS  # these need OpenCV
        from step1x_jax.curation.embedded.photographs import load_originals

        views, originals = embedded_views(), load_originals()

        def edit(row: Row, context: Context) -> Iterator[Outcome]:
            view = views[row["name"]]
            for category in map(Category, self.categories):
                # its own numbers, whatever other categories are made
                rng = context.rng({ID: f"{row[ID]} {category}"})
                for made in METHODS[category](view, list(originals.values()), rng, self.count):
                    yield _outcome(made, view, originals)

        return each(edit)


def _outcome(
    made: Edit | Rejection, view: "Photograph", originals: "Mapping[str, Photograph]"
) -> Outcome:
    """What was made, as columns."""
    names = str(made.facts.get("photographs", "")).split()
    names = list(dict.fromkeys([view.original, *names]))
    columns: dict[str, Any] = {
        "category": str(made.category),
        "facts": {name: _plain(value) for name, value in made.facts.items()},
        "groups": names,
        "licences": _each([originals[name].licence for name in names]),
        "urls": _each([originals[name].url for name in names]),
        "method": f"embedded/{made.facts.get('action', '')}".rstrip("/"),
    }
    if isinstance(made, Rejection):
        return Rejected(made.reason, columns=columns)
    return columns | {
        "source": encode_png(made.source),
        "target": encode_png(made.target),
        "mask": encode_mask(made.mask),
        "slots": made.slots,
    }


def _plain(value: str | float) -> str | float:
    """A fact as JSON has it; NumPy's numbers are none."""
    return value if isinstance(value, str) else float(value)


def _each(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
