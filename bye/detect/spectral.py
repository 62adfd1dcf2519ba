"""Spectral signatures: flag the samples that lie furthest along the direction of the largest spread."""

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import validate_data

from bye.detect.share import flag_lowest

MARGIN = 1.5  # times the poison rate is dropped, as published


class SpectralSignatures(OutlierMixin, BaseEstimator):
    """Detect backdoor samples by their squared projection on the top right singular vector of the centred states.

    The paper treats each label alone; here all samples are one group.

    Parameters
    ----------
    rate : float or None, default=None
        Upper bound eps of the share of poisoned samples; 1.5 eps n samples are flagged. Without it nobody is.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,)
        Minus the squared projection: low is suspicious.
    labels_ : ndarray of shape (n_samples,)
        -1 for flagged samples, 1 for the others.
    n_features_in_ : int

    References
    ----------
    Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, Algorithm 1. arXiv:1811.00636.
    """

    def __init__(self, rate=None):
        self.rate = rate

    def fit(self, X, y=None):
        """Fit to X of shape (n_samples, n_features), finite. Raises ValueError for bad input and a rate below 0."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        centred = X - X.mean(axis=0)
        top = np.linalg.svd(centred, full_matrices=False)[2][0]  # (n_features,)
        self.scores_ = -((centred @ top) ** 2)
        self.labels_ = flag_lowest(self.scores_, None if self.rate is None else MARGIN * self.rate)
        return self

    def fit_predict(self, X, y=None):
        """Fit and return the labels: -1 for the flagged samples, 1 for the others."""
        return self.fit(X).labels_
