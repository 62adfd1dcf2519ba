"""Activation clustering: divide the samples in two, flag the smaller part if it is small enough."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from sklearn.utils.validation import validate_data

REDUCTIONS, DECISIONS = ("ica", "pca"), ("size", "silhouette")


class ActivationClustering(OutlierMixin, BaseEstimator):
    """Detect backdoor samples as the smaller of two clusters of reduced hidden states.

    The states are reduced to `components` dimensions and divided by 2-means. The smaller cluster is flagged if its
    share of the samples is below `size`; with decision="silhouette" the clustering must also have a silhouette score
    above `silhouette`. The paper treats each label alone; here all samples are one group.

    Parameters
    ----------
    reduction : {"ica", "pca"}, default="ica"
    components : int, default=10
        Dimensions that are kept; fewer where the states have fewer.
    decision : {"size", "silhouette"}, default="size"
    size : float, default=0.35
        Share below which the smaller cluster is poison.
    silhouette : float, default=0.1
        Score above which two clusters are two.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    share_ : float
        Share of the samples that the smaller cluster has.
    silhouette_ : float or None
        Silhouette score of the two clusters; None where it was not asked for.
    scores_ : ndarray of shape (n_samples,)
        Distance to the centre of the smaller cluster less that to the other's: low is suspicious.
    labels_ : ndarray of shape (n_samples,)
        -1 for flagged samples, 1 for the others.
    n_features_in_ : int

    References
    ----------
    Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering", 2018. arXiv:1811.03728.
    The thresholds are those of the authors' Adversarial Robustness Toolbox.
    """

    def __init__(self, reduction="ica", components=10, decision="size", size=0.35, silhouette=0.1, random_state=None):
        self.reduction = reduction
        self.components = components
        self.decision = decision
        self.size = size
        self.silhouette = silhouette
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fit to X of shape (n_samples, n_features), finite. Raises ValueError for bad input or parameters."""
        for name, choices in (("reduction", REDUCTIONS), ("decision", DECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        reduced = self._reduce(X)
        self.share_, self.silhouette_ = 0.0, None
        self.scores_, self.labels_ = np.zeros(len(X)), np.ones(len(X), dtype=int)
        if reduced.shape[1] == 0:  # all states are the same
            return self
        clusters = KMeans(2, n_init=10, random_state=self.random_state).fit(reduced)
        counts = np.bincount(clusters.labels_, minlength=2)
        smaller = int(counts.argmin())
        self.share_ = float(counts[smaller] / len(X))
        to_centres = clusters.transform(reduced)  # (n_samples, 2)
        self.scores_ = to_centres[:, smaller] - to_centres[:, 1 - smaller]
        apart = self.share_ > 0
        if self.decision == "silhouette" and len(X) > 2:
            self.silhouette_ = float(silhouette_score(reduced, clusters.labels_))
            apart = self.silhouette_ > self.silhouette
        if apart and self.share_ < self.size:
            self.labels_[clusters.labels_ == smaller] = -1
        return self

    def fit_predict(self, X, y=None):
        """Fit and return the labels: -1 for the flagged samples, 1 for the others."""
        return self.fit(X).labels_

    def _reduce(self, X):
        """Reduce X to (n_samples, components or fewer): the directions of largest spread, made independent by ICA."""
        left, singular, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
        rank = int(np.sum(singular > singular.max(initial=0) * max(X.shape) * np.finfo(float).eps))
        kept = (left * singular)[:, : min(self.components, rank)]
        if self.reduction == "pca" or kept.shape[1] == 0:
            return kept
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # after the published 200 rounds it is close enough
            return FastICA(whiten="unit-variance", random_state=self.random_state).fit_transform(kept)
