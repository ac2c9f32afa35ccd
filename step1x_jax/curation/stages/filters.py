"""The filters of a row, as stages: what is in filters/, with thresholds as settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from step1x_jax.curation.engine.columns import Columns
from step1x_jax.curation.engine.rows import Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each
from step1x_jax.curation.filters.change import LEAST_DIFFERENCE, LeakFilter, UnchangedFilter
from step1x_jax.curation.filters.language import check_languages
from step1x_jax.curation.filters.size import LEAST_SIDE, MOST_RATIO, SizeFilter

Check = Callable[[Mapping[str, Any]], str | None]  # a row -> why it is left out, or None
PAIR: Columns = {"source": bytes, "target": bytes}


def rejecting(check: Check) -> Operator:
    """An operator that leaves out rows for which a check has a reason."""

    def look(row: Row) -> Mapping[str, Any] | Rejected:
        reason = check(row)
        return Rejected(reason) if reason else {}

    return each(look)


@dataclasses.dataclass
class Size(Stage):
    """See `SizeFilter`."""

    least_side: int = LEAST_SIDE
    most_ratio: float = MOST_RATIO

    reads: ClassVar = PAIR

    def open(self) -> Operator:
        """See `Stage`."""
        return rejecting(SizeFilter(self.least_side, self.most_ratio))


@dataclasses.dataclass
class Unchanged(Stage):
    """See `UnchangedFilter`."""

    least: float = LEAST_DIFFERENCE

    reads: ClassVar = {**PAIR, "mask": bytes}
    optional: ClassVar = ("mask",)

    def open(self) -> Operator:
        """See `Stage`."""
        return rejecting(UnchangedFilter(self.least))


@dataclasses.dataclass
class Leak(Stage):
    """See `LeakFilter`."""

    most: int = 0

    reads: ClassVar = {**PAIR, "mask": bytes}
    optional: ClassVar = ("mask",)

    def open(self) -> Operator:
        """See `Stage`."""
        return rejecting(LeakFilter(self.most))


@dataclasses.dataclass
class Languages(Stage):
    """See `check_languages`."""

    reads: ClassVar = {"instruction_en": str, "instruction_cn": str}

    def open(self) -> Operator:
        """See `Stage`."""
        return rejecting(check_languages)
