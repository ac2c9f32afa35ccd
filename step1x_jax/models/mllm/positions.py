"""What the model must know of a picture's grid and of a prompt, computed on the host with numpy.

A batch has one picture per example. Rows are padded on the right to sizes that the caller gives, so
that pictures and prompts of many shapes run in one compiled program. Rows, not one packed sequence:
attention then costs what each picture costs, and a batch splits over devices. Nothing that stands
in the padding reaches a valid place.

The processor gives a picture's patches merge unit by merge unit (2 x 2 patches that become one
token), the units row by row. The vision tower wants the units window by window, so that a window
lies in one piece: *window order*. Patches are put into it here; `Prompts.places` finds the tokens
that come out of it again.

Legend: B examples, h w patches of a grid, P = h w patches, M = P / 4 merged tokens, T tokens of a
prompt, C numbers in a patch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from step1x_jax.models.mllm.config import MLLMConfig, VisionConfig

Array = Any  # of numpy on the host, of jax in the model
PADDING = -1
UNSEEN_POSITION = 1  # of a token that no other attends to, as in transformers before 5


class Pictures(NamedTuple):
    """B pictures, patches in window order, padded to P patches."""

    pixels: Array  # (B, P, C) float32, 0 in the padding
    positions: Array  # (B, 2, P) int32, row and column of a patch, 0 in the padding
    windows: Array  # (B, P) int32, number of its window, PADDING in the padding


class Prompts(NamedTuple):
    """B prompts, padded to T tokens."""

    ids: Array  # (B, T) int32, 0 in the padding
    positions: Array  # (B, 3, T) int32, time, row and column, 0 in the padding
    places: Array  # (B, T) int32, which merged token stands here, PADDING where there is text
    attended: Array | None = None  # (B, T) bool, False where no token looks; None: all are seen


class Layout(NamedTuple):
    """How the patches of one grid lie in window order."""

    order: np.ndarray  # (P,) which patch of the processor comes here
    positions: np.ndarray  # (2, P) row and column of the patch
    windows: np.ndarray  # (P,) number of its window, ascending
    places: np.ndarray  # (M,) where the merged tokens stand, these row by row


def check_grid(grid: Sequence[int] | np.ndarray, config: VisionConfig) -> tuple[int, int]:
    """Rows and columns of a grid (1, h, w) of patches.

    Raises:
      ValueError: it has several frames, or sides that do not merge.
    """
    frames, h, w = map(int, grid)
    side = config.spatial_merge_size
    if frames != 1 or h % side or w % side or h < 1 or w < 1:
        raise ValueError(f"grid {frames, h, w}: want one frame, and sides multiples of {side}")
    return h, w


def picture_layout(grid: Sequence[int] | np.ndarray, config: VisionConfig) -> Layout:
    """Window order of a picture.

    Windows run row by row, merged tokens row by row within a window; windows at the right and lower
    edge may be smaller. As in transformers' get_vision_window_index and get_vision_position_ids.

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
    return Layout(
        order=order,
        positions=positions[:, order],
        windows=np.repeat(window[token_order], unit),
        places=np.argsort(token_order),
    )


def prompt_positions(
    ids: Sequence[int] | np.ndarray,
    grid: Sequence[int] | np.ndarray,
    config: MLLMConfig,
    unseen_id: int | None = None,
) -> np.ndarray:
    """Multimodal rotary positions of a prompt with one picture.

    Text counts on by one on all three axes. The picture's tokens stand at one time, at their row
    and column, all three counted from where the picture starts; the text behind it goes on behind
    the longer side. Tokens that are not attended to are not counted.

    Args:
      ids: (T,) with image_token_id in the places of the picture's merged tokens, in one piece.
      grid: (1, h, w) of the picture.
      config: of the model.
      unseen_id: of tokens that are not attended to, see `pad_prompts`.

    Returns:
      (3, T) int32: time, row, column.

    Raises:
      ValueError: ids and grid do not fit together, or see `check_grid`.
    """
    seen = np.asarray(ids) != unseen_id if unseen_id is not None else np.ones(len(ids), bool)
    if not seen.all():
        positions = np.full((3, len(ids)), UNSEEN_POSITION, np.int32)
        positions[:, seen] = prompt_positions(np.asarray(ids)[seen], grid, config)
        return positions
    h, w = check_grid(grid, config.vision)
    merge = config.vision.spatial_merge_size
    rows, columns = h // merge, w // merge
    places = np.flatnonzero(np.asarray(ids) == config.image_token_id)
    if len(places) != rows * columns or np.any(np.diff(places) != 1):
        raise ValueError(
            f"the prompt has {len(places)} tokens of a picture; want {rows * columns} in one piece"
        )
    start, stop = places[0], places[-1] + 1
    behind = start + max(rows, columns)
    positions = np.empty((3, len(ids)), np.int32)
    positions[:, :start] = np.arange(start)
    positions[0, start:stop] = start
    positions[1:, start:stop] = start + np.indices((rows, columns)).reshape(2, -1)
    positions[:, stop:] = behind + np.arange(len(ids) - stop)
    return positions


def pad_pictures(
    pixel_values: Sequence[np.ndarray],
    grids: Sequence[Sequence[int]] | np.ndarray,
    config: VisionConfig,
    patches: int,
) -> Pictures:
    """Pictures as the processor gives them, in window order and padded.

    Args:
      pixel_values: B arrays (P_i, C) float32, patches in the processor's order.
      grids: B grids (1, h, w), P_i = h w.
      config: of the vision tower.
      patches: P, at least every P_i, a multiple of the patches in a merged token.

    Returns:
      Pictures of numpy arrays.

    Raises:
      ValueError: a picture does not fit its grid or P.
    """
    if patches % config.merge_unit:
        raise ValueError(f"{patches} patches are no multiple of {config.merge_unit}")
    b = len(pixel_values)
    pixels = np.zeros((b, patches, config.patch_width), np.float32)
    positions = np.zeros((b, 2, patches), np.int32)
    windows = np.full((b, patches), PADDING, np.int32)
    for i, (values, grid) in enumerate(zip(pixel_values, grids, strict=True)):
        layout = picture_layout(grid, config)
        n = len(layout.order)
        if values.shape != (n, config.patch_width) or n > patches:
            raise ValueError(
                f"picture {i} of shape {values.shape}: want {n, config.patch_width} for its grid,"
                f" and at most {patches} patches"
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
    """Prompts with their positions and the places of their pictures, padded on the right.

    Args:
      ids: B prompts, T_i ids each; image_token_id once for each merged token of the picture.
      grids: B grids (1, h, w) of their pictures.
      config: of the model.
      tokens: T, at least every T_i.
      unseen_id: no token attends to those with this id, and they are not counted in positions
        (prompt.py says why); None: all are seen.

    Returns:
      Prompts of numpy arrays.

    Raises:
      ValueError: a prompt does not fit its grid or T.
    """
    b = len(ids)
    padded = np.zeros((b, tokens), np.int32)
    positions = np.zeros((b, 3, tokens), np.int32)
    places = np.full((b, tokens), PADDING, np.int32)
    for i, (prompt, grid) in enumerate(zip(ids, grids, strict=True)):
        n = len(prompt)
        if n > tokens:
            raise ValueError(f"prompt {i} has {n} tokens; want at most {tokens}")
        padded[i, :n] = prompt
        positions[i, :, :n] = prompt_positions(prompt, grid, config, unseen_id)
        is_picture = padded[i] == config.image_token_id
        is_picture[n:] = False
        places[i, is_picture] = picture_layout(grid, config.vision).places
    if unseen_id is None or not any(unseen_id in prompt for prompt in ids):
        return Prompts(padded, positions, places)
    return Prompts(padded, positions, places, attended=padded != unseen_id)


def padded_size(needed: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` that holds `needed`, or the next multiple of the largest.

    One compiled program serves all that is padded to one size.
    """
    largest = max(sizes)
    fitting = [size for size in sizes if size >= needed]
    return min(fitting, default=-(-needed // largest) * largest)
