"""BYE (Believe Your Eyes): flag samples whose attention has collapsed, by the entropy of sensitive layers."""

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.cluster import KMeans
from sklearn.utils.validation import check_is_fitted, validate_data

from bye.detect.bsi import RULES, bsi, released_margin
from bye.detect.mixture import MIN_SAMPLES, TAIL_SHARES, component_stds, cut, fit_two_gaussians, low_log_odds

LAYERS = ("bsi", "all")


def _gmm(scores, n_init, random_state, threshold):
    """Cluster the scores (n_samples,) by a two-component Gaussian mixture; return it (or None) and the cut in nats."""
    mixture = fit_two_gaussians(scores, n_init, random_state)
    threshold = -np.inf if mixture is None else cut(mixture)
    # Where all samples fall to one side there are no two clusters, and none is the lower one.
    return mixture, threshold if np.any(scores >= threshold) else -np.inf


def _kmeans(scores, n_init, random_state, threshold):
    """Cluster the scores by k-means; the cut lies half-way between the two centres (Table 7)."""
    if np.ptp(scores) == 0:
        return None, -np.inf
    return None, KMeans(2, n_init=10, random_state=random_state).fit(scores[:, None]).cluster_centers_.mean()


def _threshold(scores, n_init, random_state, threshold):
    """Cut at a fixed entropy (Table 7, and Fig. 4 without GMM)."""
    return None, threshold


# name -> function(scores, n_init, random_state, threshold) -> (mixture or None, cut: samples below it are flagged)
CLUSTERINGS = {"gmm": _gmm, "kmeans": _kmeans, "threshold": _threshold}


class BYEDetector(OutlierMixin, BaseEstimator):
    """Detect backdoor samples of a fine-tuning set by bimodal attention entropy.

    Each layer's entropies are modelled by two Gaussians (Eq. 6); layers whose two modes stand apart are sensitive
    (Eq. 7). A sample's score is its mean entropy over the sensitive layers (Eq. 8); the scores are clustered by
    another two-component mixture and the low-mean component is flagged, whatever its share. Without a sensitive layer
    nobody is flagged.

    Where this goes beyond the paper: each mixture is fitted from several starts, so that a component of one per cent is
    found (see `bye.detect.mixture.fit_two_gaussians`); the posterior of the low component is kept from rising again
    with entropy, so that a wide low component claims no sample beyond the high one (`low_log_odds`); and if one
    component takes all samples, nobody is flagged.

    Parameters
    ----------
    bsi_rule : {"paper", "released"}, default="paper"
        "paper": sensitive if |mu1 - mu2| / sqrt(sigma1^2 + sigma2^2) >= tau.
        "released": sensitive if |mu1 - mu2| > tau (sigma1 + sigma2), as in the authors' code.
    tau : float, default=2.0
        Threshold of the rule.
    clustering : {"gmm", "kmeans", "threshold"}, default="gmm"
        How the scores are clustered: by the mixture, by k-means, or by a fixed `threshold` (Table 7).
    layers : {"bsi", "all"}, default="bsi"
        "all" averages over all layers, sensitive or not (the ablation "w/o BSI" of Fig. 4).
    threshold : float, default=4.5
        The fixed cut in nats of ``clustering="threshold"``. The paper's 4.5 belongs to 576 image tokens.
    n_init : int, default=4
        Number of starts of each mixture, 1 to 4; 1 is scikit-learn's k-means start alone.
    random_state : int, RandomState instance or None, default=None
        Seed of the k-means starts.

    Attributes
    ----------
    layer_means_, layer_stds_, layer_weights_ : ndarray of shape (n_layers, 2)
        The mixture of each layer, component 0 having the lower mean; means and standard deviations in nats. A layer
        whose values all lie within 1e-3 nats has twice its mean, standard deviations 0 and weights (0, 1).
    bsi_ : ndarray of shape (n_layers,)
        Bimodal Separation Index; 0 for a constant layer.
    released_margin_ : ndarray of shape (n_layers,)
        |mu1 - mu2| / (sigma1 + sigma2), which the released rule compares with tau.
    sensitive_layers_ : ndarray of int
        Indices of the sensitive layers, ascending; empty if there is none. All layers if ``layers="all"``.
    gmm_ : GaussianMixture or None
        Mixture of the scores, component 0 having the lower mean; None if there is nothing to cluster.
    offset_ : float
        The cut in nats: samples that score below it are flagged. Minus infinity if nobody is.
    scores_ : ndarray of shape (n_samples,)
        ``score_samples`` of the training samples.
    labels_ : ndarray of shape (n_samples,)
        -1 for flagged samples, 1 for the others.
    n_features_in_ : int
        Number of layers.

    References
    ----------
    Rong et al., "Backdoor Cleaning without External Guidance in MLLM Fine-tuning", 2025, section 4. arXiv:2505.16916.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> entropies = rng.normal(4.0, 0.2, size=(100, 3))  # 100 samples, 3 layers
    >>> entropies[:10, 1] -= 2.5                         # attention of ten samples collapses in layer 1
    >>> detector = BYEDetector(random_state=0).fit(entropies)
    >>> detector.sensitive_layers_
    array([1])
    >>> np.flatnonzero(detector.labels_ == -1)
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    def __init__(
        self,
        bsi_rule="paper",
        tau=2.0,
        clustering="gmm",
        layers="bsi",
        threshold=4.5,
        n_init=4,
        random_state=None,
    ):
        self.bsi_rule = bsi_rule
        self.tau = tau
        self.clustering = clustering
        self.layers = layers
        self.threshold = threshold
        self.n_init = n_init
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fit the mixtures, select the layers and find the cut.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_layers)
            Attention entropies in nats (Eq. 5), finite; at least 10 samples.
        y : Ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For NaN or infinite entropies, fewer than 10 samples, or a parameter outside its range.
        """
        self._check_parameters()
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=MIN_SAMPLES)
        n_layers = X.shape[1]
        self.layer_means_ = np.repeat(X.mean(axis=0)[:, None], 2, axis=1)
        self.layer_stds_ = np.zeros((n_layers, 2))
        self.layer_weights_ = np.tile([0.0, 1.0], (n_layers, 1))
        for layer in range(n_layers):
            mixture = fit_two_gaussians(X[:, layer], self.n_init, self.random_state)
            if mixture is not None:
                self.layer_means_[layer] = mixture.means_.reshape(2)
                self.layer_stds_[layer] = component_stds(mixture)
                self.layer_weights_[layer] = mixture.weights_
        self.bsi_ = bsi(self.layer_means_, self.layer_stds_)
        self.released_margin_ = released_margin(self.layer_means_, self.layer_stds_)

        if self.layers == "all":
            self.sensitive_layers_ = np.arange(n_layers)
        else:
            rule = RULES[self.bsi_rule]
            self.sensitive_layers_ = np.flatnonzero(rule(self.layer_means_, self.layer_stds_, self.tau))
        self.scores_ = self._scores(X)
        self.gmm_, self.offset_ = None, -np.inf
        if len(self.sensitive_layers_):
            cluster = CLUSTERINGS[self.clustering]
            self.gmm_, self.offset_ = cluster(self.scores_, self.n_init, self.random_state, self.threshold)
        self.labels_ = self._labels(self.scores_)
        return self

    def fit_predict(self, X, y=None):
        """Fit to X and return its labels: -1 for flagged samples, 1 for the others; shape (n_samples,)."""
        return self.fit(X).labels_

    def score_samples(self, X):
        """Return the mean entropy over the sensitive layers in nats, shape (n_samples,); higher is more normal.

        Without a sensitive layer it is the mean over all layers, which ranks the samples but flags none.
        """
        check_is_fitted(self)
        return self._scores(validate_data(self, X, dtype=np.float64, reset=False))

    def decision_function(self, X):
        """Return ``score_samples(X) - offset_``: negative for flagged samples, plus infinity if nobody is flagged."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Return -1 for samples that score below the cut, 1 for the others; shape (n_samples,)."""
        return self._labels(self.score_samples(X))

    def low_posterior(self, X):
        """Return the posterior probability of the low-entropy component, shape (n_samples,).

        It never rises with the score. NaN where scores were not clustered.
        See `bye.detect.mixture.low_log_odds`.
        """
        scores = self.score_samples(X)
        if self.gmm_ is None:
            return np.full(len(scores), np.nan)
        return 0.5 * (1 + np.tanh(0.5 * low_log_odds(self.gmm_, scores)))

    def _scores(self, X):
        return X[:, self.sensitive_layers_].mean(axis=1) if len(self.sensitive_layers_) else X.mean(axis=1)

    def _labels(self, scores):
        return np.where(scores < self.offset_, -1, 1)

    def _check_parameters(self):
        for name, choices in (("bsi_rule", RULES), ("clustering", CLUSTERINGS), ("layers", LAYERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not self.tau >= 0:
            raise ValueError(f"tau must be a number of at least 0, got {self.tau!r}")
        if not np.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite number of nats, got {self.threshold!r}")
        if not 1 <= self.n_init <= 1 + len(TAIL_SHARES):
            raise ValueError(f"n_init must be 1 to {1 + len(TAIL_SHARES)}, got {self.n_init!r}")
