"""The BYE estimator against hand-computed cases, scipy, and scikit-learn's own checks."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.mixture import GaussianMixture
from sklearn.utils.estimator_checks import parametrize_with_checks

from bye.detect.bsi import RULES, bsi, released_margin
from bye.detect.bye import BYEDetector
from bye.detect.mixture import cut, fit_two_gaussians, low_log_odds


def mixture_of(means, stds, weights):
    """Return a mixture with given parameters, as if fitted."""
    mixture = GaussianMixture(2)
    mixture.means_ = np.array(means, dtype=float).reshape(2, 1)
    mixture.covariances_ = np.array(stds, dtype=float).reshape(2, 1, 1) ** 2
    mixture.weights_ = np.array(weights, dtype=float)
    return mixture


def entropies(n_clean, n_poisoned, n_layers=6, collapsed=(2, 3), drop=1.8, seed=0):
    """Return entropies (poisoned samples last) whose `collapsed` layers are bimodal, and the labels."""
    generator = np.random.default_rng(seed)
    poisoned = np.arange(n_clean + n_poisoned) >= n_clean
    X = generator.normal(4.0, 0.3, (len(poisoned), n_layers))
    X[np.ix_(poisoned, collapsed)] -= drop
    return X, poisoned


def expected_failures(estimator):
    # These two checks ask for an outlier in three overlapping blobs; the stricter rule sees none there, and says so.
    names = ("check_outliers_train", "check_outliers_fit_predict")
    return dict.fromkeys(names, "flags nobody") if estimator.bsi_rule == "released" else {}


@parametrize_with_checks([BYEDetector(), BYEDetector(bsi_rule="released")], expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# ---- BSI and the rules ---------------------------------------------------------------------------------------------


def test_bsi_by_hand():
    means = np.array([[0.0, 10.0], [4.0, 1.0], [2.0, 2.0]])
    stds = np.array([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]])
    np.testing.assert_allclose(bsi(means, stds), [10 / 5, 3 / 1.0, 0])
    np.testing.assert_allclose(released_margin(means, stds), [10 / 7, 3 / 1.4, 0])


def test_rules_at_the_threshold():
    means, stds = np.array([[0.0, 10.0]]), np.array([[3.0, 4.0]])  # BSI is 2, the released margin 10/7
    assert RULES["paper"](means, stds, 2.0).all()  # "at least"
    assert not RULES["paper"](means, stds, 2.001).any()
    assert not RULES["released"](means, stds, 2.0).any()
    means = np.array([[0.0, 14.0]])  # the released margin is 2
    assert not RULES["released"](means, stds, 2.0).any()  # "more than"
    assert RULES["released"](means, stds, 1.999).all()


def test_fitted_layers_match_the_generating_mixture():
    generator = np.random.default_rng(1)
    low, high = generator.normal(1.5, 0.4, 500), generator.normal(4.0, 0.2, 4500)
    detector = BYEDetector(random_state=0).fit(np.concatenate([low, high])[:, None])
    np.testing.assert_allclose(detector.layer_means_[0], [1.5, 4.0], atol=0.05)
    np.testing.assert_allclose(detector.layer_stds_[0], [0.4, 0.2], atol=0.04)
    np.testing.assert_allclose(detector.layer_weights_[0], [0.1, 0.9], atol=0.01)
    assert detector.bsi_[0] == pytest.approx(2.5 / np.sqrt(0.4**2 + 0.2**2), rel=0.1)
    assert detector.released_margin_[0] == pytest.approx(2.5 / 0.6, rel=0.1)


def test_rules_can_disagree():
    generator = np.random.default_rng(2)
    X = np.concatenate([generator.normal(1.0, 0.5, 500), generator.normal(2.5, 0.5, 500)])[
        :, None
    ]  # BSI 2.1, margin 1.5
    assert list(BYEDetector(random_state=0).fit(X).sensitive_layers_) == [0]
    assert list(BYEDetector("released", random_state=0).fit(X).sensitive_layers_) == []


# ---- the cut between two components --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "stds", "weights", "expected"),
    [
        ((0, 4), (1, 1), (0.5, 0.5), 2.0),
        ((0, 4), (1, 1), (0.1, 0.9), 2 - np.log(9) / 4),
        ((1, 1.4), (0.1, 0.1), (0.5, 0.5), 1.2),
    ],
)
def test_cut_by_hand(means, stds, weights, expected):
    assert cut(mixture_of(means, stds, weights)) == pytest.approx(expected)


@pytest.mark.parametrize("stds", [(2.0, 1.0), (0.3, 1.0), (1.0, 1.0 + 1e-9)])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.8])
def test_cut_is_where_the_densities_cross(stds, share):
    means = (0.0, 6.0)

    def difference(x):
        return share * norm.pdf(x, means[0], stds[0]) - (1 - share) * norm.pdf(x, means[1], stds[1])

    assert cut(mixture_of(means, stds, (share, 1 - share))) == pytest.approx(brentq(difference, *means), abs=1e-6)


def test_cut_where_one_component_wins_everywhere():
    assert cut(mixture_of((1, 1.1), (0.1, 2), (1e-6, 1 - 1e-6))) == -np.inf
    assert cut(mixture_of((1, 1.1), (2, 0.1), (1 - 1e-6, 1e-6))) == np.inf


@pytest.mark.parametrize("stds", [(0.9, 0.1), (0.1, 0.9)])
def test_log_odds_never_rise_with_entropy(stds):
    mixture = mixture_of((1.5, 4.0), stds, (0.1, 0.9))
    grid = np.linspace(-3, 8, 500)
    odds = low_log_odds(mixture, grid)
    assert np.all(np.diff(odds) <= 1e-9)
    assert np.array_equal(odds > 0, grid < cut(mixture))
    between = (grid > 1.5) & (grid < 4.0)
    exact = norm.logpdf(grid, 1.5, stds[0]) - norm.logpdf(grid, 4.0, stds[1]) + np.log(0.1 / 0.9)
    np.testing.assert_allclose(odds[between], exact[between])


def test_wide_low_component_claims_no_high_outlier():
    generator = np.random.default_rng(3)
    high = np.concatenate([generator.normal(4.0, 0.1, 895), np.full(5, 5.2)])
    X = np.concatenate([generator.normal(1.8, 0.8, 100), high])[:, None]
    detector = BYEDetector(tau=1.5, random_state=0).fit(X)
    assert set(detector.gmm_.predict([[5.2]])) == {0}  # the plain assignment: low, of all things
    assert np.all(detector.labels_[-5:] == 1)
    assert np.all(detector.low_posterior(X)[-5:] < 0.5)
    assert np.mean(detector.labels_[:100] == -1) > 0.9


def test_narrow_low_component_loses_no_lower_outlier():
    generator = np.random.default_rng(4)
    X = np.concatenate([generator.normal(1.5, 0.05, 100), [0.0], generator.normal(4.0, 0.8, 900)])[:, None]
    detector = BYEDetector(random_state=0).fit(X)
    assert set(detector.gmm_.predict([[0.0]])) == {1}
    assert detector.labels_[100] == -1


# ---- detection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.10, 0.02, 0.01])
@pytest.mark.parametrize("rule", ["paper", "released"])
def test_small_low_component_is_found(share, rule):
    n_poisoned = round(1000 * share)
    X, poisoned = entropies(1000 - n_poisoned, n_poisoned)
    detector = BYEDetector(rule, random_state=0).fit(X)
    assert list(detector.sensitive_layers_) == [2, 3]
    assert np.array_equal(detector.labels_ == -1, poisoned)
    assert detector.scores_ == pytest.approx(X[:, [2, 3]].mean(axis=1))
    assert detector.gmm_.weights_[0] == pytest.approx(share, abs=0.002)


def test_k_means_start_alone_misses_one_per_cent():
    X, _ = entropies(990, 10, collapsed=(2,))
    assert len(BYEDetector(n_init=1, random_state=0).fit(X).sensitive_layers_) == 0
    assert list(BYEDetector(random_state=0).fit(X).sensitive_layers_) == [2]


@pytest.mark.parametrize("n_samples", [300, 1000])
def test_one_mode_is_not_taken_for_two(n_samples):
    X = np.random.default_rng(5).normal(4.0, 0.3, (n_samples, 20))
    detector = BYEDetector(random_state=0).fit(X)
    assert len(detector.sensitive_layers_) == 0
    assert detector.gmm_ is None
    assert np.all(detector.labels_ == 1)
    assert np.all(detector.predict(X - 10) == 1)
    assert np.all(detector.decision_function(X) == np.inf)
    assert np.all(np.isnan(detector.low_posterior(X)))


def test_new_samples_are_judged_by_the_fitted_cut():
    X, _ = entropies(900, 100)
    detector = BYEDetector(random_state=0).fit(X)
    new = np.full((3, 6), 4.0)
    new[0, 2:4] = 2.2
    new[1, [0, 1, 4, 5]] = 0.0  # low, but in layers that are not sensitive
    assert list(detector.predict(new)) == [-1, 1, 1]
    np.testing.assert_allclose(detector.score_samples(new), [2.2, 4.0, 4.0])
    assert detector.low_posterior(new)[0] > 0.99


def test_all_layers_need_no_selection():
    X, poisoned = entropies(900, 100, drop=3.0)
    detector = BYEDetector(layers="all", tau=100, random_state=0).fit(X)
    assert len(detector.sensitive_layers_) == 6
    np.testing.assert_allclose(detector.scores_, X.mean(axis=1))
    assert np.array_equal(detector.labels_ == -1, poisoned)


def test_same_seed_same_result():
    X, _ = entropies(400, 40, drop=1.0)
    first, second = (BYEDetector(random_state=7).fit(X) for _ in range(2))
    assert first.offset_ == second.offset_
    assert np.array_equal(first.labels_, second.labels_)
    assert np.array_equal(first.bsi_, second.bsi_)


def test_seed_and_order_of_samples_hardly_matter():
    X, _ = entropies(900, 100, drop=1.2)
    reference = BYEDetector(random_state=0).fit(X)
    shuffled = np.random.default_rng(0).permutation(len(X))
    other = BYEDetector(random_state=1).fit(X[shuffled])
    assert np.mean(reference.labels_[shuffled] != other.labels_) < 0.01


# ---- degenerate input ----------------------------------------------------------------------------------------------


def test_constant_layer_has_bsi_zero():
    X, poisoned = entropies(900, 100)
    X[:, 0] = 4.7874917  # ln 120
    X[:, 1] = 0.0
    detector = BYEDetector(random_state=0).fit(X)
    assert list(detector.bsi_[:2]) == [0, 0]
    assert list(detector.released_margin_[:2]) == [0, 0]
    assert np.isfinite(detector.layer_means_).all()
    assert list(detector.layer_means_[0]) == pytest.approx([4.7874917] * 2)
    assert list(detector.sensitive_layers_) == [2, 3]
    assert np.array_equal(detector.labels_ == -1, poisoned)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5, 1e-4])
def test_identical_images_have_no_sensitive_layer(noise):
    generator = np.random.default_rng(0)
    # Rounding noise may well be bimodal: one value for each of two batch shapes.
    X = 4.0 + noise * (generator.integers(0, 2, (200, 4)) + 0.01 * generator.normal(size=(200, 4)))
    detector = BYEDetector(random_state=0).fit(X)
    assert len(detector.sensitive_layers_) == 0
    assert np.all(detector.labels_ == 1)


def test_all_layers_of_identical_images_flag_nobody():
    detector = BYEDetector(layers="all", random_state=0).fit(np.full((50, 3), 3.0))
    assert np.all(detector.labels_ == 1)
    assert detector.gmm_ is None


def test_two_distinct_values():
    X = np.repeat([[1.0], [4.0]], [20, 180], axis=0)
    detector = BYEDetector(random_state=0).fit(X)
    assert list(detector.labels_) == [-1] * 20 + [1] * 180
    assert np.isfinite(detector.bsi_).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_entropies_must_be_finite(bad):
    X, _ = entropies(50, 5)
    X[3, 2] = bad
    with pytest.raises(ValueError, match="NaN|infinity"):
        BYEDetector().fit(X)


@pytest.mark.parametrize("n_samples", [1, 9])
def test_too_few_samples(n_samples):
    with pytest.raises(ValueError, match="minimum of 10"):
        BYEDetector().fit(np.random.default_rng(0).normal(size=(n_samples, 3)))


def test_ten_samples_suffice():
    X = np.array([[1.0], [1.1], *([4.0 + 0.02 * i] for i in range(8))])
    assert list(BYEDetector(random_state=0).fit_predict(X)) == [-1, -1] + [1] * 8


@pytest.mark.parametrize(
    "parameters",
    [{"bsi_rule": "mine"}, {"clustering": "dbscan"}, {"layers": "some"}, {"tau": -1}, {"tau": np.nan}, {"n_init": 0}],
)
def test_wrong_parameters(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        BYEDetector(**parameters).fit(np.zeros((20, 2)))


def test_first_start_is_plain_scikit_learn():
    values = entropies(450, 50)[0][:, 2]
    ours = fit_two_gaussians(values, n_init=1, random_state=0)
    theirs = GaussianMixture(2, random_state=0).fit(values[:, None])
    np.testing.assert_allclose(np.sort(ours.means_.ravel()), np.sort(theirs.means_.ravel()))
    assert ours.lower_bound_ == theirs.lower_bound_


def test_clusterings_by_hand():
    X = np.repeat([[1.0], [1.2], [4.0], [4.2]], 10, axis=0)
    kmeans = BYEDetector(clustering="kmeans", layers="all", random_state=0).fit(X)
    assert kmeans.offset_ == pytest.approx(2.6) and kmeans.gmm_ is None
    assert (kmeans.labels_ == -1).tolist() == [True] * 20 + [False] * 20
    fixed = BYEDetector(clustering="threshold", layers="all", threshold=4.1).fit(X)
    assert fixed.offset_ == 4.1 and (fixed.labels_ == -1).sum() == 30
    assert np.isnan(fixed.low_posterior(X)).all()
    same = BYEDetector(clustering="kmeans", layers="all").fit(np.full((20, 2), 3.0))
    assert (same.labels_ == 1).all()
