"""Distance from the middle of the samples, in robust standard deviations."""

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from bye.detect.robust import SIGMAS

TINY = 1e-8


class RobustDistance(OutlierMixin, BaseEstimator):
    """Detect samples that lie far from the samples' own middle, all features taken together.

    Each feature is centred on its median and divided by its scale (1.4826 median absolute deviations, plus 1e-8); a
    sample's distance is the Euclidean norm. Those above the median distance by more than `cut` of the distances' own
    robust deviations are flagged.

    Parameters
    ----------
    cut : float, default=3.5

    Attributes
    ----------
    center_, scale_ : ndarray of shape (n_features,)
    offset_ : float
        Minus the distance above which samples are flagged.
    scores_ : ndarray of shape (n_samples,)
        ``score_samples`` of the training samples.
    labels_ : ndarray of shape (n_samples,)
        -1 for flagged samples, 1 for the others.
    n_features_in_ : int
    """

    def __init__(self, cut=3.5):
        self.cut = cut

    def fit(self, X, y=None):
        """Fit to X of shape (n_samples, n_features), finite. Raises ValueError for bad input or a cut below 0."""
        if not self.cut >= 0:
            raise ValueError(f"cut must be a number of at least 0, got {self.cut!r}")
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.center_, self.scale_ = middle(X)
        self.scores_ = self._scores(X)
        center, scale = middle(self.scores_)
        self.offset_ = float(center - self.cut * scale)
        self.labels_ = self._labels(self.scores_)
        return self

    def fit_predict(self, X, y=None):
        """Fit and return the labels: -1 for the flagged samples, 1 for the others."""
        return self.fit(X).labels_

    def score_samples(self, X):
        """Return minus the distances, (n_samples,): low is suspicious."""
        check_is_fitted(self)
        return self._scores(validate_data(self, X, dtype=np.float64, reset=False))

    def decision_function(self, X):
        """Return ``score_samples(X) - offset_``: negative for flagged samples."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Return -1 for samples further away than the cut, 1 for the others."""
        return self._labels(self.score_samples(X))

    def _scores(self, X):
        return -np.linalg.norm((X - self.center_) / self.scale_, axis=1)

    def _labels(self, scores):
        return np.where(scores < self.offset_, -1, 1)


def middle(X):
    """Return the median and the robust standard deviation over the first axis."""
    center = np.median(X, axis=0)
    return center, SIGMAS * np.median(np.abs(X - center), axis=0) + TINY
