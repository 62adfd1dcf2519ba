"""Two-component Gaussian mixtures of one-dimensional samples (BYE, Eq. 6), and the cut between their two components."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

# Five parameters are fitted to each layer: with fewer than ten samples two modes can be seen in anything.
MIN_SAMPLES = 10
# Floor of a component's variance, in nats^2: no component is narrower than 1e-3 nats. Entropies come from float32
# attention and differ by some 1e-5 nats between batch shapes; under this floor, structure that small has a BSI near 0.
REG_COVAR = 1e-6
# Shares of the samples that form the low component at the start of EM, in the starts after k-means. K-means with two
# clusters likes halves: it splits a broad clean mode and overlooks a poisoned few per cent, which these starts find.
TAIL_SHARES = (0.1, 0.03, 0.01)
# Fits whose log-likelihoods differ by less count as equally good: 2 ln(ratio) < 6 is no strong evidence for either
# (Kass & Raftery, "Bayes factors", 1995).
EQUALLY_GOOD = 3.0


def fit_two_gaussians(values, n_init=4, random_state=None):
    """Fit a two-component Gaussian mixture by EM from several starts.

    The first start is scikit-learn's own (k-means), the others put the lowest `TAIL_SHARES` of the samples into one
    component. A fit from the latter counts only if the Bayesian information criterion prefers it to a single Gaussian
    (log-likelihood higher by 3/2 ln n, for three more parameters), since any sample has a small tail that two
    Gaussians can dwell on. Of all fits that are about as likely as the likeliest (`EQUALLY_GOOD`), the one with the
    smallest low component is returned: what is looked for is a minority.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        Finite, in nats; at least two samples.
    n_init : int
        Number of starts, 1 to 4. With 1 this is ``GaussianMixture(2).fit`` and no more.
    random_state : int, RandomState instance or None
        Seed of the k-means start; the others draw nothing.

    Returns
    -------
    GaussianMixture or None
        Component 0 has the lower mean. None if all values lie within 1e-3 nats of each other: no second mode.
    """
    values = np.asarray(values, dtype=np.float64)
    if np.ptp(values) <= np.sqrt(REG_COVAR):
        return None
    n = len(values)
    fits = [_fit(values, {}, random_state)]
    one_gaussian = -0.5 * (np.log(2 * np.pi * values.var()) + 1)  # mean log-likelihood, as `lower_bound_` is
    ordered = np.sort(values)
    for share in TAIL_SHARES[: n_init - 1]:
        size = max(2, round(share * n))
        tail = _fit(values, _start(ordered[:size], ordered[size:]), random_state)
        if tail.lower_bound_ > one_gaussian + 1.5 * np.log(n) / n:
            fits.append(tail)
    likeliest = max(fit.lower_bound_ for fit in fits)
    fits = [_low_first(fit) for fit in fits if fit.lower_bound_ >= likeliest - EQUALLY_GOOD / n]
    return min(fits, key=lambda fit: fit.weights_[0])


def component_stds(mixture):
    """Return the standard deviations of the two components, shape (2,), in nats."""
    return np.sqrt(mixture.covariances_.reshape(2))


def low_log_odds(mixture, values):
    """Return the log odds of the low-mean against the high-mean component, made monotone in the entropy.

    The log odds of two Gaussians are a parabola in the entropy: beyond its vertex the wider component wins again,
    however far that is on the other one's side. A sample of higher entropy than nearly all others would count as
    collapsed, merely because the low component is wide. BYE speaks of the *low-entropy* cluster, so the odds are held
    constant beyond the vertex. Only samples out in those tails are treated otherwise than by
    ``GaussianMixture.predict``.

    Parameters
    ----------
    mixture : GaussianMixture
        Two components, the first with the lower mean.
    values : ndarray of shape (n_samples,)
        Entropies in nats.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    a, b, c = _parabola(mixture)
    x = np.asarray(values, dtype=np.float64) - mixture.means_[0, 0]
    if a != 0:
        vertex = -b / (2 * a)
        x = np.maximum(x, vertex) if a < 0 else np.minimum(x, vertex)
    return (a * x + b) * x + c


def cut(mixture):
    """Return the entropy below which a sample belongs to the low component.

    There `low_log_odds` falls through zero. Minus infinity if the low component wins nowhere, plus infinity if it
    wins everywhere.
    """
    a, b, c = _parabola(mixture)
    discriminant = b * b - 4 * a * c
    if discriminant <= 0:
        return -np.inf if a < 0 else np.inf
    # The root on the falling side of the parabola, in the form that also holds for a = 0 (equal widths: a line).
    root = 2 * c / (np.sqrt(discriminant) - b) if b < 0 else -(b + np.sqrt(discriminant)) / (2 * a)
    return mixture.means_[0, 0] + root


def _parabola(mixture):
    """Return a, b, c of the log odds a x^2 + b x + c of component 0 against 1; x is counted from the low mean."""
    distance = mixture.means_[1, 0] - mixture.means_[0, 0]
    v0, v1 = mixture.covariances_.reshape(2)
    w0, w1 = np.maximum(mixture.weights_, np.finfo(np.float64).tiny)
    a = 0.5 / v1 - 0.5 / v0
    b = -distance / v1
    c = 0.5 * distance**2 / v1 + 0.5 * np.log(v1 / v0) + np.log(w0 / w1)
    return a, b, c


def _start(low, high):
    parts = (low, high)
    return {
        "weights_init": np.array([part.size for part in parts]) / (low.size + high.size),
        "means_init": np.array([[part.mean()] for part in parts]),
        "precisions_init": np.array([[[1 / (part.var() + REG_COVAR)]] for part in parts]),
    }


def _fit(values, start, random_state):
    mixture = GaussianMixture(2, reg_covar=REG_COVAR, random_state=random_state, **start)
    with warnings.catch_warnings():
        # EM that still creeps after its 100 steps does so between overlapping components, far below any threshold;
        # k-means warns where there are fewer than two distinct values apart.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(values[:, None])


def _low_first(mixture):
    order = np.argsort(mixture.means_[:, 0], kind="stable")
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        setattr(mixture, name, getattr(mixture, name)[order])
    return mixture
