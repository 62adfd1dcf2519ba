"""TCAP (tri-component attention profiling): flag samples on which some heads attend elsewhere than on most."""

import warnings

import numpy as np
from scipy.stats import norm
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import check_is_fitted

GRID = np.linspace(-0.5, 1.5, 2001)  # of shares that were scaled to 0..1, where the overlap is integrated
REG_COVAR = 1e-5
CONSTANT = 1e-6  # a head whose shares differ by less tells nothing
ROUNDS = 100  # of Dawid and Skene's EM, at most
TOLERANCE = 1e-6


class TCAPDetector(OutlierMixin, BaseEstimator):
    """Detect backdoor samples by the share of attention that heads give to a component of the prompt.

    Each head's shares, scaled to 0..1 over the samples, are modelled by 1 to `components` Gaussians, as many as the
    AIC likes best. Ordered by their means, they are divided where the two sides overlap least; the lighter side is the
    target group. The heads that separate best, by 1 / (overlap + epsilon), vote for the samples that are of their
    target group, and Dawid and Skene's EM weighs the votes. A head with one Gaussian has no vote; where no head has
    one, nobody is flagged.

    Parameters
    ----------
    heads : int or None, default=16
        How many heads vote, at most; None: all that separate anything.
    layers : int or None, default=None
        The last layers that heads are chosen from; None: the upper half of the layers. 0: all.
    votes : float, default=0.5
        Posterior mass in the target group above which a head votes for a sample.
    combine : {"dawid_skene", "majority"}, default="dawid_skene"
        How votes become a probability: by EM over the heads' reliabilities, or as their share.
    components : int, default=5
    epsilon : float, default=1e-3
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    separation_ : ndarray of shape (n_layers, n_heads)
        1 / (overlap + epsilon) of each head's two groups, 0 of one with one Gaussian or outside the layers.
    voters_ : list of (layer, head)
        The heads that vote, the best first.
    votes_ : ndarray of shape (n_samples, n_voters), bool
    probabilities_ : ndarray of shape (n_samples,)
    labels_ : ndarray of shape (n_samples,)
        -1 where the probability exceeds 1/2, else 1.

    References
    ----------
    arXiv:2601.21692, as far as its abstract and public notes say. What `heads`, `layers`, `votes` and `epsilon` are
    there, and how components are divided, is published nowhere that could be found: the defaults here are ours.
    """

    def __init__(
        self,
        heads=16,
        layers=None,
        votes=0.5,
        combine="dawid_skene",
        components=5,
        epsilon=1e-3,
        random_state=None,
    ):
        self.heads = heads
        self.layers = layers
        self.votes = votes
        self.combine = combine
        self.components = components
        self.epsilon = epsilon
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fit to shares X of shape (n_samples, n_layers, n_heads). Raises ValueError for another shape or combine."""
        X = np.asarray(X, dtype=float)
        if X.ndim != 3 or len(X) < 2 or not np.isfinite(X).all():
            raise ValueError(f"X must be finite, of shape (n_samples, n_layers, n_heads) with 2 samples, not {X.shape}")
        if self.combine not in COMBINED:
            raise ValueError(f"combine is {self.combine!r}; it can be {', '.join(COMBINED)}")
        n_samples, n_layers, n_heads = X.shape
        looked_at = {None: (n_layers + 1) // 2, 0: n_layers}.get(self.layers, self.layers)
        self.separation_, target = np.zeros((n_layers, n_heads)), {}
        for layer in range(max(0, n_layers - looked_at), n_layers):
            for head in range(n_heads):
                found = divide(X[:, layer, head], self.components, self.random_state)
                if found is not None:
                    target[layer, head], overlap = found
                    self.separation_[layer, head] = 1 / (overlap + self.epsilon)
        ranked = sorted(target, key=lambda place: -self.separation_[place])
        self.voters_ = ranked[: self.heads]
        self.votes_ = np.array([target[place] > self.votes for place in self.voters_]).reshape(-1, n_samples).T
        self.probabilities_ = COMBINED[self.combine](self.votes_)
        self.labels_ = np.where(self.probabilities_ > 0.5, -1, 1)
        return self

    def fit_predict(self, X, y=None):
        """Fit and return the labels: -1 for the flagged samples, 1 for the others."""
        return self.fit(X).labels_

    def score_samples(self, X=None):
        """Return the scores of the samples that were fitted, (n_samples,): low is suspicious."""
        check_is_fitted(self)
        return -self.probabilities_


def divide(values, components=5, random_state=None):
    """Divide a head's shares into a target group and the others.

    values: (n_samples,). Returns (posterior mass in the target group, (n_samples,); overlap of the two groups'
    densities, 0 to 1), or None where one Gaussian is enough.
    """
    spread = np.ptp(values)
    if spread <= CONSTANT:
        return None
    scaled = ((values - values.min()) / spread)[:, None]
    fits = [_fit(scaled, k, random_state) for k in range(1, min(components, len(values)) + 1)]
    best = min(fits, key=lambda fit: fit.aic(scaled))
    k = best.n_components
    if k == 1:
        return None
    order = np.argsort(best.means_.ravel())
    weights, means = best.weights_[order], best.means_.ravel()[order]
    stds = np.sqrt(best.covariances_.ravel()[order])
    densities = weights[:, None] * norm.pdf(GRID, means[:, None], stds[:, None])
    step, cuts = GRID[1] - GRID[0], []
    for cut in range(1, k):
        sides = [densities[:cut].sum(axis=0) / weights[:cut].sum(), densities[cut:].sum(axis=0) / weights[cut:].sum()]
        cuts.append((float(np.minimum(*sides).sum() * step), cut))
    overlap, cut = min(cuts)
    lighter = slice(None, cut) if weights[:cut].sum() < 0.5 else slice(cut, None)
    return best.predict_proba(scaled)[:, order[lighter]].sum(axis=1), overlap


def _fit(scaled, k, random_state):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(k, reg_covar=REG_COVAR, random_state=random_state).fit(scaled)


def dawid_skene(votes):
    """Return each sample's probability of being of the class that is voted for, by EM (Dawid and Skene 1979).

    votes: (n_samples, n_voters) bool. Each voter has a rate of votes for samples of the class and one for others, which
    begin at the shares of votes: so the class is the one whose samples get more of them. Without voters all are 0.
    """
    n_samples, n_voters = votes.shape
    if n_voters == 0:
        return np.zeros(n_samples)
    votes, probability = votes.astype(float), votes.mean(axis=1)
    for _ in range(ROUNDS):
        rates, prior = [], np.clip(probability.mean(), 1e-6, 1 - 1e-6)
        for weight in (probability, 1 - probability):
            rates.append((weight @ votes + 0.01) / (weight.sum() + 0.02))  # smoothed: no voter is infallible
        for_class, for_others = (votes @ np.log(rate) + (1 - votes) @ np.log(1 - rate) for rate in rates)
        odds = np.clip(for_class - for_others + np.log(prior / (1 - prior)), -500, 500)
        previous, probability = probability, 1 / (1 + np.exp(-odds))
        if np.abs(probability - previous).max() < TOLERANCE:
            break
    return probability


def majority(votes):
    """Return the share of the voters that vote for each sample: votes (n_samples, n_voters) -> (n_samples,)."""
    return votes.mean(axis=1) if votes.shape[1] else np.zeros(len(votes))


COMBINED = {"dawid_skene": dawid_skene, "majority": majority}
