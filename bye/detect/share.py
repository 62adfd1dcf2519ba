"""Flag a share of samples that a detector is told."""

import numpy as np


def flag_lowest(scores, share):
    """Return labels (n_samples,): -1 for the round(share x n) lowest scores, the first of equal ones; 1 for the others.

    share: 0 to 1, what exceeds 1 is all; None flags nobody. Raises ValueError for a negative one.
    """
    labels = np.ones(len(scores), dtype=int)
    if share is None:
        return labels
    if not share >= 0:
        raise ValueError(f"the share to flag must be a number of at least 0, got {share!r}")
    labels[np.argsort(scores, kind="stable")[: round(min(share, 1.0) * len(scores))]] = -1
    return labels
