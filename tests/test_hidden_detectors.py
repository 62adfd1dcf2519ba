"""Detectors on hidden states whose answer is known, and scikit-learn's own checks."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.utils.estimator_checks import parametrize_with_checks

from bye.detect.activation_clustering import ActivationClustering
from bye.detect.dao import LocalSparsity, lid
from bye.detect.share import flag_lowest
from bye.detect.spectral import SpectralSignatures
from bye.errors import ByeError
from bye.features import Features
from bye.methods.defences import activation_clustering, dao, spectral
from bye.registry import find

N, POISONED, WIDTH = 200, 20, 24
ESTIMATORS = [
    SpectralSignatures(rate=0.1),
    LocalSparsity(rate=0.1),
    LocalSparsity("k_distance", rate=0.1),
    ActivationClustering(),
    ActivationClustering("pca", decision="silhouette"),
]


def expected_failures(estimator):
    # This check asks for an outlier among three equal blobs.
    return {"check_outliers_fit_predict": "flags nobody"} if isinstance(estimator, ActivationClustering) else {}


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def states(by=6.0, seed=0):
    """States (N, WIDTH) of one bump, in which the first POISONED are moved along one direction."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, WIDTH))
    X[:POISONED, 3] += by
    return X


def is_found(labels):
    return (labels[:POISONED] == -1).all() and (labels[POISONED:] == 1).all()


# ---- a share ---------------------------------------------------------------------------------------------------------


def test_the_lowest_share():
    scores = np.array([3.0, 1.0, 2.0, 1.0])
    assert flag_lowest(scores, 0.5).tolist() == [1, -1, 1, -1] and flag_lowest(scores, 0.25).tolist() == [1, -1, 1, 1]
    assert (flag_lowest(scores, None) == 1).all() and (flag_lowest(scores, 1.5) == -1).all()
    with pytest.raises(ValueError, match="at least 0, got -1"):
        flag_lowest(scores, -1)


# ---- spectral signatures ---------------------------------------------------------------------------------------------


def test_spectral_scores_are_squared_projections_on_the_top_direction():
    X = states()
    detector = SpectralSignatures(rate=0.1).fit(X)
    assert (detector.labels_[:POISONED] == -1).all() and np.sum(detector.labels_ == -1) == 30  # 1.5 x 20
    values, vectors = np.linalg.eigh(np.cov(X.T))
    np.testing.assert_allclose(-detector.scores_, ((X - X.mean(axis=0)) @ vectors[:, values.argmax()]) ** 2)
    assert (SpectralSignatures().fit_predict(X) == 1).all()


# ---- activation clustering -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["size", "silhouette"])
@pytest.mark.parametrize("reduction", ["ica", "pca"])
def test_the_smaller_cluster_is_flagged(reduction, decision):
    detector = ActivationClustering(reduction, components=2, decision=decision, random_state=0).fit(states(by=25.0))
    assert is_found(detector.labels_) and detector.share_ == 0.1
    assert detector.scores_[:POISONED].max() < 0 < detector.scores_[POISONED:].min()
    assert (detector.silhouette_ is None) == (decision == "size")


def test_two_halves_are_no_poison_nor_is_one_bump_with_a_silhouette():
    X = states(by=0.0)
    assert (ActivationClustering("pca", decision="silhouette", random_state=0).fit_predict(X) == 1).all()
    X[: N // 2, 3] += 25
    assert (ActivationClustering("pca", random_state=0).fit_predict(X) == 1).all()
    assert (ActivationClustering().fit_predict(np.ones((20, 3))) == 1).all()
    with pytest.raises(ValueError, match="decision must be one of size, silhouette, got 'both'"):
        ActivationClustering(decision="both").fit(X)


# ---- DAO and k-distance ----------------------------------------------------------------------------------------------


def test_k_distance_and_dao_by_hand():
    X, k = states(), 5
    distances = np.sort(cdist(X, X), axis=1)[:, 1 : k + 1]
    neighbours = np.argsort(cdist(X, X), axis=1)[:, 1 : k + 1]
    np.testing.assert_allclose(-LocalSparsity("k_distance", k).fit(X).scores_, distances[:, -1])
    expected = []
    for i in range(N):
        terms = []
        for o in neighbours[i]:
            logs = [min(np.log(d / distances[o, -1] + 1e-4), 0) for d in distances[o]]
            terms.append(-np.log(distances[i, -1] / distances[o, -1]) / np.mean(logs))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(-LocalSparsity("dao", k).fit(X).scores_, expected)


@pytest.mark.parametrize("method", ["dao", "k_distance"])
def test_samples_that_are_alone_are_flagged(method):
    X = states(by=0.0)
    X[:POISONED] *= 4
    assert is_found(LocalSparsity(method, rate=0.1).fit_predict(X))
    assert (LocalSparsity(method).fit_predict(X) == 1).all()


def test_local_dimension():
    """The distances to uniform points in d dimensions grow as the d-th root of their number."""
    for dimension in (1, 2, 8):
        radii = (np.arange(1, 2001) / 2000) ** (1 / dimension)
        assert lid(radii[None])[0] == pytest.approx(dimension, rel=0.02)


def test_copies_of_one_state_are_neither_in_nor_out():
    X = np.concatenate([np.zeros((30, 3)), np.random.default_rng(0).normal(5, 1, (60, 3))])
    scores = LocalSparsity().fit(X).scores_
    assert np.isfinite(scores).all() and (scores[:30] == 0).all()
    with pytest.raises(ValueError, match="method must be one of dao, k_distance, got 'lof'"):
        LocalSparsity("lof").fit(X)


# ---- the defences ----------------------------------------------------------------------------------------------------


def features(**arrays):
    n = len(next(iter(arrays.values())))
    return Features("attention.parquet", [str(i) for i in range(n)], np.zeros(n, dtype=int), **arrays)


def test_independent_components_weigh_all_directions_alike():
    """As published: with ten of them the one direction that tells is lost among nine that do not."""
    X = states(by=25.0)
    assert is_found(ActivationClustering("pca", random_state=0).fit_predict(X))
    assert not is_found(ActivationClustering("ica", random_state=0).fit_predict(X))


def test_they_read_the_last_of_the_named_layers_and_say_what_they_are_told():
    hidden = np.stack([np.zeros((N, WIDTH)), states(by=25.0)], axis=1)  # (N, 2, WIDTH)
    verdict = activation_clustering.detect(features(hidden=hidden), seed=0, components=2)
    assert is_found(np.where(verdict.flagged, -1, 1))
    assert verdict.reasons[0] == "its hidden state is of the smaller of two clusters, of 10.0 %"
    assert json.loads(verdict.metadata["activation_clustering"]) == {"share": 0.1, "silhouette": None}
    verdict = spectral.detect(features(hidden=hidden), rate=0.1)
    assert verdict.flagged[:POISONED].all() and verdict.flagged.sum() == 30
    assert dao.detect(features(hidden=hidden), rate=0.05).flagged.sum() == 10
    for module in (spectral, dao):
        assert not module.detect(features(hidden=hidden)).flagged.any()
        assert find("defence", module.__name__.rpartition(".")[2]).told == ("rate",)
        with pytest.raises(ByeError, match=r"attention.parquet has 3 samples, and .* needs 10 at least"):
            module.detect(features(hidden=hidden[:3]))


def test_later_answers_are_compared_with_their_like():
    hidden = states(by=25.0)[:, None]
    turns = np.arange(N) % 2
    moved = Features("a", [str(i // 2) for i in range(N)], turns, hidden=hidden + 100.0 * turns[:, None, None])
    assert is_found(np.where(activation_clustering.detect(moved, seed=0, components=2).flagged, -1, 1))
