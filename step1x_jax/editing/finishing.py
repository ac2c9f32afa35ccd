"""From what the autoencoder decodes to the result: its size, and what of the source stays."""

import dataclasses

from PIL import Image

from step1x_jax.editing.masks import changed_region, composite, cover
from step1x_jax.editing.registration import corrected, register
from step1x_jax.editing.requests import EditRequest

RESAMPLING_BACK = Image.Resampling.BICUBIC  # as both releases


@dataclasses.dataclass(frozen=True)
class Finishing:
    """Postprocessing of all results of a call, see `Editor.edit`."""

    align: bool = False
    keep_unchanged: bool = False


def finished(
    request: EditRequest, small: Image.Image | None, edited: Image.Image, finishing: Finishing
) -> Image.Image:
    """The result of a request.

    Args:
      request: the request.
      small: its source at the size at which it was edited; None for text-to-image.
      edited: what was decoded, of that size.
      finishing: what is done with it.

    Returns:
      A picture of request.output. Where a mask, or what was found to be unchanged, keeps the
      source, it is the source's pixels, at the source's own size bit for bit.
    """
    source, mask = request.source, request.mask
    if source is None or small is None:
        return edited.resize(request.output, RESAMPLING_BACK)
    if finishing.align:
        within = None if mask is None else cover(mask, *small.size)
        edited = corrected(edited, register(small, edited, within))
    if finishing.keep_unchanged:
        found = cover(changed_region(small, edited), *source.size)
        mask = found if mask is None else mask & found
    result = edited.resize(request.output, RESAMPLING_BACK)
    if mask is None:
        return result
    if request.output != source.size:
        source = source.resize(request.output, RESAMPLING_BACK)
    return composite(source, result, cover(mask, *request.output))
