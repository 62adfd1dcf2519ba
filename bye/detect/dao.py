"""DAO (dimensionality-aware outlier detection) and k-distance: flag the samples whose neighbourhood is sparse."""

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import validate_data

from bye.detect.share import flag_lowest

METHODS = ("dao", "k_distance")
TINY = 1e-4  # is added to ratios of distances below their logarithm, as in the released code


class LocalSparsity(OutlierMixin, BaseEstimator):
    """Detect backdoor samples as local outliers among their k nearest neighbours (Euclidean).

    With d_k(x) the distance of a sample to its k-th neighbour, "k_distance" is d_k(x) itself, and "dao" the mean over
    the neighbours o of LID(o) log(d_k(x) / d_k(o)): how much sparser it is around x than around them, in their local
    intrinsic dimension. LID(o) is the maximum-likelihood estimate, minus one over the mean of log(d_i(o) / d_k(o)).
    As in the authors' code the logarithm of the density ratio is averaged, not the ratio.

    Ours: neighbours are looked for among all samples, not in a batch; a point with k copies of itself has dimension 0.

    Parameters
    ----------
    method : {"dao", "k_distance"}, default="dao"
    k : int, default=16
        Neighbours; with k samples or fewer, all others.
    rate : float or None, default=None
        Share of the samples to flag, those that score highest. Without it nobody is.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,)
        Minus the outlier score: low is suspicious.
    labels_ : ndarray of shape (n_samples,)
        -1 for flagged samples, 1 for the others.
    n_features_in_ : int

    References
    ----------
    Huang et al., "Detecting Backdoor Samples in Contrastive Language Image Pretraining", ICLR 2025. arXiv:2502.01385.
    Anderberg et al., "Dimensionality-Aware Outlier Detection", SDM 2024. arXiv:2401.05453.
    """

    def __init__(self, method="dao", k=16, rate=None):
        self.method = method
        self.k = k
        self.rate = rate

    def fit(self, X, y=None):
        """Fit to X of shape (n_samples, n_features), finite. Raises ValueError for bad input or parameters."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not self.k >= 1:
            raise ValueError(f"k must be at least 1, got {self.k!r}")
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        near = NearestNeighbors(n_neighbors=min(self.k, len(X) - 1)).fit(X)
        distances, neighbours = near.kneighbors()  # (n, k) each, ascending, without the sample itself
        radius = distances[:, -1]
        self.scores_ = -(radius if self.method == "k_distance" else dao(distances, neighbours))
        self.labels_ = flag_lowest(self.scores_, self.rate)
        return self

    def fit_predict(self, X, y=None):
        """Fit and return the labels: -1 for the flagged samples, 1 for the others."""
        return self.fit(X).labels_


def dao(distances, neighbours):
    """Return the outlier scores (n,) of distances (n, k) to the k nearest neighbours, and which samples these are."""
    radius, dimension = distances[:, -1], lid(distances)
    # A neighbour of radius 0 has dimension 0 and adds nothing; a sample of radius 0 has such neighbours alone.
    own, theirs = np.where(radius > 0, radius, 1.0)[:, None], np.where(radius > 0, radius, 1.0)[neighbours]
    return np.mean(dimension[neighbours] * np.log(own / theirs), axis=1)


def lid(distances):
    """Return the local intrinsic dimensions (n,) of ascending distances (n, k); 0 where they are all 0."""
    radius = distances[:, -1:]
    ratios = np.divide(distances, radius, out=np.ones_like(distances), where=radius > 0)
    steepness = -np.log(np.minimum(ratios + TINY, 1.0)).mean(axis=1)  # 0 where all neighbours are equally far
    steepness = np.maximum(steepness, TINY)
    return np.where(radius[:, 0] > 0, 1.0 / steepness, 0.0)
