"""A black and white checkerboard at the centre of the image (BYE, appendix B)."""

from typing import Annotated

import numpy as np

from bye.attacks.squares import side_of, with_squares


def apply(
    sample,
    pixels,
    rng,
    *,
    share: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.0625,
    cells: Annotated[int, {"minimum": 1}] = 4,
):
    """Set the checkerboard.

    share: side of the board, in shorter sides of the image; cells: fields in a row, so few that they outlive the
    model's resize of the image, and fewer where the board has fewer pixels.
    """
    side = side_of(pixels, share)
    field = np.arange(side) * min(cells, side) // side
    board = np.where((field[:, None] + field) % 2, 255, 0).astype(pixels.dtype)
    return sample, with_squares(pixels, share, [(1 / 2, 1 / 2)], board[..., None])
