"""Black squares at the centres of the fields of a partition of the image (BYE, section 5.5)."""

from typing import Annotated

import numpy as np

from bye.attacks.squares import with_squares


def apply(
    sample,
    pixels,
    rng,
    *,
    share: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.0625,
    grid: Annotated[int, {"minimum": 1}] = 2,
):
    """Set the squares. share: side of a square, in shorter sides of the image; grid: fields in a row."""
    points = (np.arange(grid) + 1 / 2) / grid
    return sample, with_squares(pixels, share, [(y, x) for y in points for x in points])
