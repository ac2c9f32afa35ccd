"""The filters that look at all rows together, as stages."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from step1x_jax.curation.engine.rows import ID, Context, Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, WholeStage, each
from step1x_jax.curation.filters.duplicates import (
    MOST_DIFFERENCE,
    DuplicateIndex,
    EditHash,
    hash_edit,
)
from step1x_jax.curation.filters.template_share import MOST_SHARE, find_excess
from step1x_jax.curation.stages.filters import PAIR
from step1x_jax.errors import require


@dataclasses.dataclass
class EditHashes(Stage):
    """What `Duplicates` compares, of each row by itself."""

    reads: ClassVar = {**PAIR, "mask": bytes}
    writes: ClassVar = {"edit_digest": str, "thumbnails": bytes}
    optional: ClassVar = ("mask",)

    def open(self) -> Operator:
        """See `Stage`."""
        return each(_hashed)


def _hashed(row: Row) -> dict[str, Any]:
    edit = hash_edit(row)
    return {
        "edit_digest": edit.exact,
        "thumbnails": edit.thumbnails.astype(np.uint8).tobytes(),
    }


@dataclasses.dataclass
class Duplicates(WholeStage):
    """Of edits that are the same, or nearly, the first stays; see `DuplicateIndex`."""

    most: float = MOST_DIFFERENCE

    reads: ClassVar = {"edit_digest": str, "thumbnails": bytes}

    def validate(self) -> None:
        """See `Stage`."""
        require(0 <= self.most <= 255, "most", self.most, "give a difference of bytes")

    def decide(self, rows: Iterator[Row], context: Context) -> Mapping[str, Rejected]:
        """See `WholeStage`."""
        index = DuplicateIndex(self.most)
        found = {}
        for row in rows:
            thumbnails = np.frombuffer(row["thumbnails"], np.uint8).astype(np.int16)
            if reason := index.add(EditHash(row["edit_digest"], thumbnails.reshape(4, -1))):
                found[row[ID]] = Rejected(reason)
        return found


@dataclasses.dataclass
class TemplateShare(WholeStage):
    """No template has more than its share of a category, in either language."""

    most_share: float = MOST_SHARE

    reads: ClassVar = {"category": str, "template_en": str, "template_cn": str}

    def validate(self) -> None:
        """See `Stage`."""
        require(0.05 <= self.most_share <= 1, "most_share", self.most_share, "give 0.05 to 1")

    def decide(self, rows: Iterator[Row], context: Context) -> Mapping[str, Rejected]:
        """See `WholeStage`."""
        groups: dict[str, list[Row]] = collections.defaultdict(list)
        for row in rows:
            groups[row["category"]].append(row)
        found: dict[str, Rejected] = {}
        for left in groups.values():
            for column in ("template_en", "template_cn"):
                named = [{"id": row[ID], "template": row[column]} for row in left]
                excess = find_excess(named, self.most_share)
                found |= {id: Rejected("template_too_frequent", column) for id in excess}
                left = [row for row in left if row[ID] not in excess]
        return found


@dataclasses.dataclass
class FewSources(WholeStage):
    """Leaves out a category whose edits are of fewer than `least` photographs.

    A model that is trained on them would learn these photographs, not the edit.
    """

    least: int = 3

    reads: ClassVar = {"category": str, "groups": list[str]}

    def validate(self) -> None:
        """See `Stage`."""
        require(self.least >= 1, "least", self.least, "give a number of photographs")

    def decide(self, rows: Iterator[Row], context: Context) -> Mapping[str, Rejected]:
        """See `WholeStage`."""
        edits: dict[str, list[str]] = collections.defaultdict(list)
        photographs: dict[str, set[str]] = collections.defaultdict(set)
        for row in rows:
            edits[row["category"]].append(row[ID])
            photographs[row["category"]].add(row["groups"][0])
        return {
            id: Rejected("few_sources", ", ".join(sorted(photographs[category])))
            for category, ids in edits.items()
            if len(photographs[category]) < self.least
            for id in ids
        }
