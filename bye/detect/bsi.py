"""Bimodal Separation Index: how far apart a layer's two entropy modes are, and which layers count as sensitive."""

import numpy as np


def bsi(means, stds):
    """Return |mu1 - mu2| / sqrt(sigma1^2 + sigma2^2) for each layer (BYE, Eq. 7).

    Parameters
    ----------
    means, stds : ndarray of shape (n_layers, 2)
        Means and standard deviations of the two components, in nats.

    Returns
    -------
    ndarray of shape (n_layers,)
        Dimensionless; 0 where both components have zero width, which is how a constant layer is written.
    """
    return _ratio(np.abs(means[:, 0] - means[:, 1]), np.hypot(stds[:, 0], stds[:, 1]))


def released_margin(means, stds):
    """Return |mu1 - mu2| / (sigma1 + sigma2) for each layer: what the authors' released code compares with 2.

    It is smaller than the BSI, by a factor of up to sqrt(2), so the released rule is the stricter one. Shapes and the
    constant layer as in `bsi`.
    """
    return _ratio(np.abs(means[:, 0] - means[:, 1]), stds[:, 0] + stds[:, 1])


def _ratio(distance, width):
    return np.divide(distance, width, out=np.zeros_like(distance), where=width > 0)


def _paper(means, stds, tau):
    return bsi(means, stds) >= tau


def _released(means, stds, tau):
    return released_margin(means, stds) > tau


# rule -> function(means, stds, tau) -> bool array of shape (n_layers,)
RULES = {"paper": _paper, "released": _released}
