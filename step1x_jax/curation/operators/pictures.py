"""Operators on the pictures of several rows at once."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.curation.engine.rows import ID, Context, Outcome, Rejected, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.errors import UserError

# Rows, and of each the pictures -> of each what it makes.
Work = Callable[[Sequence[Row], Sequence[Sequence[Image.Image]], Context], Sequence[Any]]


def on_pictures(columns: Sequence[str], work: Work) -> Operator:
    """An operator that decodes pictures; rows with one that cannot be decoded are left out.

    Args:
      columns: of the pictures.
      work: what to do with the other rows, if there are any.
    """

    def operate(rows: Sequence[Row], context: Context) -> list[Any]:
        decoded = [_decode(row, columns) for row in rows]
        fine = [row for row, one in zip(rows, decoded, strict=True) if isinstance(one, list)]
        pictures = [one for one in decoded if isinstance(one, list)]
        made = iter(work(fine, pictures, context) if fine else ())
        return [next(made) if isinstance(one, list) else one for one in decoded]

    return operate


def _decode(row: Row, columns: Sequence[str]) -> list[Image.Image] | Outcome:
    try:
        return [decode_image(row[name], f"{name} of {row[ID]}") for name in columns]
    except UserError as e:
        return Rejected("unreadable_picture", str(e))
