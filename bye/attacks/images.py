"""What triggers on whole images share."""

import numpy as np


def rounded(values):
    """The nearest pixels (H, W, 3) uint8 of values in grey levels, those outside 0 to 255 cut off."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
