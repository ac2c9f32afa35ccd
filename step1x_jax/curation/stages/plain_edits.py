"""The edits that are the same for every picture: embedded/plain.py as a stage."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from step1x_jax.conditioning.images import decode_image
from step1x_jax.curation.encoding import encode_mask, encode_png
from step1x_jax.curation.engine.rows import Context, Outcome, Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each

if TYPE_CHECKING:
    from step1x_jax.curation.embedded.plain import PlainEdit


@dataclasses.dataclass
class PlainEdits(Stage):
    """All plain edits of any photograph; those that hardly change it are rejected."""

    reads: ClassVar = {"picture": bytes, "name": str, "group": str}
    writes: ClassVar = {
        "category": str,
        "source": bytes,
        "target": bytes,
        "mask": bytes,
        "facts": dict,
        "slots": dict,
        "method": str,
    }
    many: ClassVar = True

    def open(self) -> Operator:
        """See `Stage`."""
        from step1x_jax.curation.embedded.plain import PLAIN  # needs OpenCV

        def edit(row: Row, context: Context) -> Iterator[Outcome]:
            pixels = np.asarray(decode_image(row["picture"], row["name"]))
            source = encode_png(pixels)
            for name, kind in PLAIN.items():
                made = _outcome(name, kind, pixels, row["group"])
                yield made if isinstance(made, Rejected) else {**made, "source": source}

        return each(edit)


def _outcome(
    name: str, kind: "PlainEdit", pixels: np.ndarray, group: str
) -> dict[str, Any] | Rejected:
    """An edit as columns but its source, which is the same for all, if it passes the gates."""
    from step1x_jax.curation.embedded.gates import check
    from step1x_jax.curation.embedded.types import Edit

    target = kind.apply(pixels)
    changed = np.any(target != pixels, axis=-1)
    mask = changed if kind.local else np.ones_like(changed)
    made = check(
        Edit(kind.category, pixels, target, mask, {"action": name, "photographs": group}, {})
    )
    columns: dict[str, Any] = {
        "category": str(kind.category),
        "facts": made.facts,
        "method": f"plain/{name}",
    }
    if not isinstance(made, Edit):
        return Rejected(made.reason, columns=columns)
    return columns | {
        "target": encode_png(target),
        "mask": encode_mask(mask),
        "slots": {},
    }
