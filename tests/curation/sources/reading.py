"""What a source gives, without an engine."""

import io

import numpy as np
from PIL import Image

from step1x_jax.curation.engine.rows import Context, Rejected


def png(seed, size=(32, 24)):
    """A PNG file of noise of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def parts_of(source):
    """Of each part the rows, and what was rejected by its reason: (id, row or reason)."""
    source.validate()
    context = Context(0, "source", "", "")
    return [
        [
            (id, row.reason if isinstance(row, Rejected) else row)
            for id, row in source.read(unit.payload, context)
        ]
        for unit in source.units()
    ]


def rows_of(source):
    """The rows of all parts."""
    return [row for part in parts_of(source) for _, row in part]
