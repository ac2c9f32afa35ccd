"""Positions, window order and padding of images and prompts, computed on the host with numpy.

A batch has one image per example. Rows are padded on the right to sizes given by the caller, so
that one compiled program serves images and prompts of many shapes. The batch has padded rows rather
than one packed sequence: the cost of attention is then the sum over images, and a batch can be
sharded over devices. Padding never affects valid positions.

The processor orders a picture's patches by merge unit (2 x 2 patches that become one token), and
the units row by row. The vision tower needs the units window by window, so that each window is
contiguous: *window order*. `pad_pictures` reorders the patches; `Prompts.image_index` finds the
resulting tokens.

Legend: B examples, h w patches of a grid, P = h * w patches, M = P / 4 merged tokens, T tokens of a
prompt, C values in a patch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from step1x_jax.models.mllm.config import MLLMConfig, VisionConfig

Array = Any  # a numpy array on the host, a jax array in the model
PADDING = -1
UNSEEN_POSITION = 1  # position of a token to which no other attends, as in transformers before 5


class Pictures(NamedTuple):
    """B images, patches in window order, padded to P patches."""

    pixels: Array  # (B, P, C) float32, 0 in the padding
    positions: Array  # (B, 2, P) int32, row and column of a patch, 0 in the padding
    windows: Array  # (B, P) int32, index of the patch's window, PADDING in the padding


class Prompts(NamedTuple):
    """B prompts, padded to T tokens."""

    ids: Array  # (B, T) int32, 0 in the padding
    positions: Array  # (B, 3, T) int32, time, row and column, 0 in the padding
    image_index: Array  # (B, T) int32, index of the merged image token, PADDING for text
    key_mask: Array | None = None  # (B, T) bool, False: no token attends to it; None: no mask


class WindowLayout(NamedTuple):
    """The window order of the patches of one grid."""

    order: np.ndarray  # (P,) index of the patch in the processor's order
    positions: np.ndarray  # (2, P) row and column of each patch
    windows: np.ndarray  # (P,) index of the patch's window, ascending
    window_index: np.ndarray  # (M,) index in window order of the merged tokens, row by row


def check_grid(grid: Sequence[int] | np.ndarray, config: VisionConfig) -> tuple[int, int]:
    """Return rows and columns of a grid (1, h, w) of patches.

    Raises:
      ValueError: the grid has several frames, or sides that are not multiples of the merge size.
    """
    frames, h, w = map(int, grid)
    side = config.spatial_merge_size
    if frames != 1 or h % side or w % side or h < 1 or w < 1:
        raise ValueError(f"grid {frames, h, w}: expected one frame, and multiples of {side}")
    return h, w


def picture_layout(grid: Sequence[int] | np.ndarray, config: VisionConfig) -> WindowLayout:
    """Compute the window order of an image.

    Windows are ordered row by row, and merged tokens row by row within a window. Windows at the
    right and bottom edge may be smaller. Equivalent to get_vision_window_index and
    get_vision_position_ids of transformers.

    Args:
      grid: (1, h, w), frames, rows and columns of patches.
      config: patch, merge and window sizes.

    Raises:
      ValueError: see `check_grid`.
    """
    h, w = check_grid(grid, config)
    merge, unit, side = config.spatial_merge_size, config.merge_unit, config.window_side
    rows, columns = np.divmod(np.arange(h * w // unit), w // merge)
    windows_across = -(-(w // merge) // side)
    window = rows // side * windows_across + columns // side
    token_order = np.argsort(window, kind="stable")  # stable: row by row within a window

    order = (token_order[:, None] * unit + np.arange(unit)).reshape(-1)
    positions = np.indices((h, w)).reshape(2, h // merge, merge, w // merge, merge)
    positions = positions.transpose(0, 1, 3, 2, 4).reshape(2, -1)  # as the processor orders them
    return WindowLayout(
        order=order,
        positions=positions[:, order],
        windows=np.repeat(window[token_order], unit),
        window_index=np.argsort(token_order),
    )


def prompt_positions(
    ids: Sequence[int] | np.ndarray,
    grid: Sequence[int] | np.ndarray,
    config: MLLMConfig,
    unseen_id: int | None = None,
) -> np.ndarray:
    """Compute the multimodal rotary positions (M-RoPE) of a prompt with one image.

    Text positions increase by one on all three axes. Image tokens have a constant time, and their
    row and column, all counted from the position where the image starts. The text after the image
    continues at that position plus the longer side. Tokens that are not attended to are not
    counted.

    Args:
      ids: (T,) with image_token_id for each merged token of the image, contiguous.
      grid: (1, h, w) of the image.
      config: the model's config.
      unseen_id: id of the tokens that are not attended to; see `pad_prompts`.

    Returns:
      (3, T) int32: time, row, column.

    Raises:
      ValueError: the number of image tokens does not match the grid; see also `check_grid`.
    """
    seen = np.asarray(ids) != unseen_id if unseen_id is not None else np.ones(len(ids), bool)
    if not seen.all():
        positions = np.full((3, len(ids)), UNSEEN_POSITION, np.int32)
        positions[:, seen] = prompt_positions(np.asarray(ids)[seen], grid, config)
        return positions
    h, w = check_grid(grid, config.vision)
    merge = config.vision.spatial_merge_size
    rows, columns = h // merge, w // merge
    image = np.flatnonzero(np.asarray(ids) == config.image_token_id)
    if len(image) != rows * columns or np.any(np.diff(image) != 1):
        raise ValueError(
            f"the prompt has {len(image)} image tokens; expected {rows * columns}, contiguous"
        )
    start, stop = image[0], image[-1] + 1
    after = start + max(rows, columns)
    positions = np.empty((3, len(ids)), np.int32)
    positions[:, :start] = np.arange(start)
    positions[0, start:stop] = start
    positions[1:, start:stop] = start + np.indices((rows, columns)).reshape(2, -1)
    positions[:, stop:] = after + np.arange(len(ids) - stop)
    return positions


def pad_pictures(
    pixel_values: Sequence[np.ndarray],
    grids: Sequence[Sequence[int]] | np.ndarray,
    config: VisionConfig,
    patches: int,
) -> Pictures:
    """Put the processor's images into window order and pad them.

    Args:
      pixel_values: B arrays (P_i, C) float32, patches in the processor's order.
      grids: B grids (1, h, w), P_i = h w.
      config: the vision tower's config.
      patches: P, at least the largest P_i, and a multiple of the patches in a merged token.

    Returns:
      Pictures of numpy arrays.

    Raises:
      ValueError: an image does not match its grid, or has more than P patches.
    """
    if patches % config.merge_unit:
        raise ValueError(f"{patches} patches are not a multiple of {config.merge_unit}")
    b = len(pixel_values)
    pixels = np.zeros((b, patches, config.patch_width), np.float32)
    positions = np.zeros((b, 2, patches), np.int32)
    windows = np.full((b, patches), PADDING, np.int32)
    for i, (values, grid) in enumerate(zip(pixel_values, grids, strict=True)):
        layout = picture_layout(grid, config)
        n = len(layout.order)
        if values.shape != (n, config.patch_width) or n > patches:
            raise ValueError(
                f"picture {i} has shape {values.shape}: expected {n, config.patch_width} for its"
                f" grid, and at most {patches} patches"
            )
        pixels[i, :n] = values[layout.order]
        positions[i, :, :n] = layout.positions
        windows[i, :n] = layout.windows
    return Pictures(pixels, positions, windows)


def pad_prompts(
    ids: Sequence[Sequence[int]],
    grids: Sequence[Sequence[int]] | np.ndarray,
    config: MLLMConfig,
    tokens: int,
    unseen_id: int | None = None,
) -> Prompts:
    """Pad prompts on the right, and compute their positions and image indices.

    Args:
      ids: B prompts, T_i ids each; image_token_id once for each merged token of the image.
      grids: B grids (1, h, w) of their images.
      config: the model's config.
      tokens: T, at least the largest T_i.
      unseen_id: no token attends to tokens with this id, and they are not counted in positions (for
        the reason see conditioning/prompt.py); None: there are no such tokens.

    Returns:
      Prompts of numpy arrays.

    Raises:
      ValueError: a prompt does not match its grid, or has more than T tokens.
    """
    b = len(ids)
    padded = np.zeros((b, tokens), np.int32)
    positions = np.zeros((b, 3, tokens), np.int32)
    image_index = np.full((b, tokens), PADDING, np.int32)
    for i, (prompt, grid) in enumerate(zip(ids, grids, strict=True)):
        n = len(prompt)
        if n > tokens:
            raise ValueError(f"prompt {i} has {n} tokens; expected at most {tokens}")
        padded[i, :n] = prompt
        positions[i, :, :n] = prompt_positions(prompt, grid, config, unseen_id)
        is_picture = padded[i] == config.image_token_id
        is_picture[n:] = False
        image_index[i, is_picture] = picture_layout(grid, config.vision).window_index
    if unseen_id is None or not any(unseen_id in prompt for prompt in ids):
        return Prompts(padded, positions, image_index)
    return Prompts(padded, positions, image_index, key_mask=padded != unseen_id)


def padded_size(needed: int, sizes: Sequence[int]) -> int:
    """Return the smallest of `sizes` that is at least `needed`, or a multiple of the largest.

    All inputs that are padded to one size share a compiled program.
    """
    largest = max(sizes)
    fitting = [size for size in sizes if size >= needed]
    return min(fitting, default=-(-needed // largest) * largest)
