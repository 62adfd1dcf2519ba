"""A robust null for one-sided outliers: centre and width from the side on which no poison lies."""

import numpy as np

MIN_KIND = 20  # values of a kind that have a centre of their own
SIGMAS = 1.4826  # standard deviations of a normal distribution in one median absolute deviation


def low_scores(values, kinds=None):
    """Return how far each value lies below the centre of its kind, in robust standard deviations.

    The centre is the median; the width is the median distance of the values above it, so that a minority below, be it
    a tail or poison, widens it by little.

    Parameters
    ----------
    values : array of shape (n, ...)
        Low is suspicious. Columns are standardised one by one.
    kinds : int array of shape (n,), optional
        Kinds with fewer than MIN_KIND values are taken together.

    Returns
    -------
    array of shape (n, ...)
        0 where a kind's values above the centre do not differ.
    """
    values = np.asarray(values, dtype=float)
    kinds = np.zeros(len(values), dtype=int) if kinds is None else np.asarray(kinds)
    common = np.bincount(kinds, minlength=1)[kinds] >= MIN_KIND if len(kinds) else np.zeros(0, dtype=bool)
    kinds = np.where(common, kinds, -1)
    scores = np.zeros(values.shape)
    for kind in np.unique(kinds):
        own = values[kinds == kind]
        distances = own - np.median(own, axis=0)
        above = np.where(distances > 0, distances, np.nan)
        above = np.where(np.isnan(above).all(axis=0), 0.0, above)  # of a column without any the width is 0
        width = SIGMAS * np.nanmedian(above, axis=0)
        scores[kinds == kind] = np.divide(-distances, width, out=np.zeros(own.shape), where=width > 0)
    return scores
