"""The whole image blended with one key image (Chen et al. 2017, arXiv:1712.05526)."""

from functools import lru_cache
from typing import Annotated

import numpy as np
from PIL import Image

from bye.attacks.images import rounded
from bye.data.images import load_rgb

KEY = 0x6B6579  # of the random stream that draws the key


def apply(
    sample,
    pixels,
    rng,
    *,
    seed,
    alpha: Annotated[float, {"exclusiveMinimum": 0, "maximum": 1}] = 0.2,
    key: str | None = None,
    cells: Annotated[int, {"minimum": 1}] = 8,
):
    """Blend the image with the key, stretched to its size: (1 - alpha) x image + alpha x key.

    alpha: share of the key; key: path of an image, or none: fields of colours drawn by seed; cells: of those in a row.
    """
    height, width = pixels.shape[:2]
    stretched = np.asarray(_pattern(seed, key, cells).resize((width, height), Image.Resampling.BILINEAR), dtype=float)
    return sample, rounded((1 - alpha) * pixels + alpha * stretched)


@lru_cache
def _pattern(seed, key, cells):
    """The key as an image: read or drawn once for an attack."""
    if key is not None:
        return load_rgb(key)
    colours = np.random.default_rng([KEY, seed]).integers(0, 256, size=(cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(colours)
