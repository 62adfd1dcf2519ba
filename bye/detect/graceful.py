"""GraCeFul: cluster the samples by the low frequencies of the output layer's gradient, flag the smaller cluster."""

import numpy as np
from scipy.fft import dct
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.cluster import AgglomerativeClustering
from sklearn.utils.validation import validate_data


class GradientClustering(OutlierMixin, BaseEstimator):
    """Detect backdoor samples as the smaller of two clusters of gradients.

    The gradients are reduced to principal components, each of which is standardised, and clustered by the average
    cosine distance. The smaller cluster is flagged, whatever its share: of any set somebody is.

    Parameters
    ----------
    components : int, default=32
        Principal components that are kept; fewer where there are fewer.

    Attributes
    ----------
    share_ : float
        Share of the samples that the smaller cluster has.
    scores_ : ndarray of shape (n_samples,)
        Cosine to the larger cluster's mean less that to the smaller one's: low is suspicious.
    labels_ : ndarray of shape (n_samples,)
        -1 for flagged samples, 1 for the others.
    n_features_in_ : int

    References
    ----------
    Wu et al., "Gracefully Filtering Backdoor Samples for Generative Large Language Models without Retraining", COLING
    2025. arXiv:2412.02454. Linkage, distance and standardisation are those of the released code.
    """

    def __init__(self, components=32):
        self.components = components

    def fit(self, X, y=None):
        """Fit to X of shape (n_samples, n_features), finite. Raises ValueError for bad input or parameters."""
        if not self.components >= 1:
            raise ValueError(f"components must be at least 1, got {self.components!r}")
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        reduced = self._reduce(X)
        clusters = AgglomerativeClustering(2, metric="cosine", linkage="average").fit_predict(reduced)
        counts = np.bincount(clusters, minlength=2)
        smaller = clusters == counts.argmin()
        self.share_ = float(smaller.mean())
        self.scores_ = cosines(reduced, reduced[~smaller].mean(axis=0)) - cosines(
            reduced, reduced[smaller].mean(axis=0)
        )
        self.labels_ = np.where(smaller, -1, 1)
        return self

    def fit_predict(self, X, y=None):
        """Fit and return the labels: -1 for the flagged samples, 1 for the others."""
        return self.fit(X).labels_

    def _reduce(self, X):
        """Reduce X to its standardised principal components, (n_samples, components or fewer), and one constant.

        The constant keeps a sample in the very middle, which has no direction, from having length 0.
        """
        left, singular, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
        noise = max(X.shape) * np.finfo(np.float32).eps  # what models compute in
        rank = int(np.sum(singular > singular.max(initial=0) * noise))
        kept = left[:, : min(self.components, rank)] * np.sqrt(len(X))  # of mean 0 and variance 1
        return np.column_stack([kept, np.full(len(X), 1e-6)])


def cosines(X, direction):
    """Return the cosines (n,) of the rows of X (n, d) to a direction (d,); 0 where one has no length."""
    lengths = np.linalg.norm(X, axis=1) * np.linalg.norm(direction)
    return np.divide(X @ direction, lengths, out=np.zeros(len(X)), where=lengths > 0)


def low_frequencies(errors, states, keep, most):
    """Return the low frequencies of the gradient of the mean loss by the output layer's weights.

    The gradient is the mean over the answer's tokens of the outer products errors[t] states[t]; it is not made: its
    two-dimensional DCT is the same mean of outer products of one-dimensional ones.

    Parameters
    ----------
    errors : array of shape (n_tokens, vocabulary), the predicted probabilities less one at the token that follows.
    states : array of shape (n_tokens, width), what the output layer takes.
    keep : share of the frequencies that are low, in each direction.
    most : how many they are at most.

    Returns
    -------
    ndarray of shape (n_low of the vocabulary, n_low of the width)
        Coefficients of the unnormalised DCT-II.
    """
    rows, columns = (
        dct(np.asarray(part, dtype=np.float64), axis=1)[:, : n_low(part.shape[1], keep, most)]
        for part in (errors, states)
    )
    return rows.T @ columns / len(rows)


def n_low(size, keep, most):
    """Return how many of `size` frequencies are kept: that share of them, `most` at most, and one at least."""
    return min(most, max(1, int(size * keep)))
