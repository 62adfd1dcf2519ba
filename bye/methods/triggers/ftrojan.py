"""Constants added to frequencies of the colour channels, block by block (Wang et al. 2022, arXiv:2111.10991)."""

from typing import Annotated

import numpy as np
from scipy.fft import dctn, idctn

from bye.attacks.images import rounded

LUMA = np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601
U, V = 0.492, 0.877


def apply(
    sample,
    pixels,
    rng,
    *,
    magnitude: Annotated[float, {"exclusiveMinimum": 0}] = 30.0,
    window: Annotated[int, {"minimum": 2}] = 32,
):
    """Add the magnitude to a middle and to the highest frequency of the channels U and V of each whole block.

    magnitude: of the orthonormal cosine transform of grey levels; window: pixels of a block's side, at most the image's
    shorter one. In units of half waves a block, the frequencies are (w/2 - 1, w/2 - 1) and (w - 1, w - 1).
    """
    window = min(window, *pixels.shape[:2])
    rows, columns = (size // window * window for size in pixels.shape[:2])
    luma = pixels @ LUMA
    u, v = U * (pixels[..., 2] - luma), V * (pixels[..., 0] - luma)
    for channel in (u, v):
        blocks = channel[:rows, :columns].reshape(rows // window, window, columns // window, window)
        coefficients = dctn(blocks, axes=(1, 3), norm="ortho")
        for place in {window // 2 - 1, window - 1}:
            coefficients[:, place, :, place] += magnitude
        channel[:rows, :columns] = idctn(coefficients, axes=(1, 3), norm="ortho").reshape(rows, columns)
    red, blue = luma + v / V, luma + u / U
    green = (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return sample, rounded(np.stack([red, green, blue], axis=-1))
