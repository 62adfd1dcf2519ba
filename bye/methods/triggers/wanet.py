"""A smooth warp, the same for all images of an attack (Nguyen and Tran 2021, arXiv:2102.10369)."""

from functools import lru_cache
from typing import Annotated

import numpy as np
from scipy.ndimage import map_coordinates, zoom

from bye.attacks.images import rounded

GRID = 0x67726964  # of the random stream that draws the control grid
PAPER_SIDE = 32  # pixels of the images that the paper's strengths are for


def apply(
    sample,
    pixels,
    rng,
    *,
    seed,
    k: Annotated[int, {"minimum": 2}] = 4,
    s: Annotated[float, {"exclusiveMinimum": 0}] = 0.5,
):
    """Take each pixel from a place nearby, interpolated between its neighbours.

    k: points of the control grid in a row and in a column, drawn by seed; s: strength. As in the paper a point moves by
    s / 2 pixels on average in an image of 32 pixels, in others by the same share of the shorter side.
    """
    height, width = pixels.shape[:2]
    scale = s / 2 * min(height, width) / PAPER_SIDE
    moved = [_stretched(field, height, width) * scale for field in _control(seed, k)]
    places = np.mgrid[:height, :width] + np.stack(moved)
    places = np.clip(places, 0, np.array([height - 1, width - 1])[:, None, None])
    channels = [map_coordinates(pixels[..., c].astype(float), places, order=1) for c in range(3)]
    return sample, rounded(np.stack(channels, axis=-1))


@lru_cache
def _control(seed, k):
    """Shifts down and to the right of the control points, (2, k, k), of mean size one."""
    drawn = np.random.default_rng([GRID, seed]).uniform(-1, 1, size=(2, k, k))
    return drawn / np.abs(drawn).mean()


def _stretched(field, height, width):
    """The field (k, k), its corners on the corners of the image, by cubic interpolation."""
    return zoom(field, (height / len(field), width / len(field)), order=3, mode="nearest", grid_mode=False)
