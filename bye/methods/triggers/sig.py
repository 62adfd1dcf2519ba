"""A sinusoid along the rows, added to every pixel (Barni et al. 2019, arXiv:1902.11237)."""

from typing import Annotated

import numpy as np

from bye.attacks.images import rounded


def apply(
    sample,
    pixels,
    rng,
    *,
    delta: Annotated[float, {"exclusiveMinimum": 0, "maximum": 255}] = 20.0,
    frequency: Annotated[float, {"exclusiveMinimum": 0}] = 6.0,
):
    """Add delta x sin(2 pi j frequency / W) to column j of W. delta: grey levels; frequency: waves across the image."""
    width = pixels.shape[1]
    wave = delta * np.sin(2 * np.pi * np.arange(width) * frequency / width)
    return sample, rounded(pixels + wave[None, :, None])
