"""CleanSight's score on masses whose answer is known, and scikit-learn's own checks of the distance."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from bye.detect.robust_distance import RobustDistance
from bye.features import Features
from bye.methods.defences import cleansight_score

N, POISONED = 200, 20
# These checks ask for an outlier among three equal blobs.
BLOBS = ("check_outliers_train", "check_outliers_train(readonly_memmap=True)", "check_outliers_fit_predict")


@parametrize_with_checks(
    [RobustDistance()], expected_failed_checks=lambda estimator: dict.fromkeys(BLOBS, "flags nobody")
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_distance_by_hand():
    detector = RobustDistance(cut=2.0).fit([[1.0], [2.0], [3.0], [4.0], [100.0]])
    assert (detector.center_, detector.scale_) == (3.0, pytest.approx(1.4826))
    distances = np.array([2, 1, 0, 1, 97]) / 1.4826
    np.testing.assert_allclose(-detector.scores_, distances)
    assert detector.labels_.tolist() == [1, 1, 1, 1, -1]
    assert -detector.offset_ == pytest.approx(1 / 1.4826 + 2 * 1.4826 * 1 / 1.4826)


def features(**arrays):
    return Features("attention.parquet", [str(i) for i in range(N)], np.zeros(N, dtype=int), **arrays)


def masses(n_layers=32, heads=4):
    rng = np.random.default_rng(0)
    image = rng.normal(0.3, 0.01, (N, n_layers, heads))
    return image, rng.normal(0.2, 0.01, (N, n_layers, heads))


@pytest.mark.parametrize(("preset", "layer"), [("paper", 12), ("released", 24)])
def test_cleansight_looks_at_its_layers_alone(preset, layer):
    for where, is_seen in ((layer, True), (layer + 1, False)):
        image, text = masses()
        image[:POISONED, where], text[:POISONED, where] = 0.45, 0.05
        verdict = cleansight_score.detect(features(image_mass=image, text_mass=text), preset=preset)
        assert verdict.flagged[:POISONED].all() == is_seen and verdict.flagged[POISONED:].mean() < 0.03
        assert verdict.flagged[:POISONED].any() == is_seen
    assert (
        "deviations from the middle, above"
        in cleansight_score.detect(features(image_mass=image, text_mass=text), cut=0.0).reasons[
            int(np.argmin(verdict.scores))
        ]
    )


def test_cleansight_scales_its_layers_by_depth():
    for preset, n_layers, expected in (
        ("paper", 32, range(10, 13)),
        ("released", 32, range(10, 25)),
        ("paper", 8, [2]),
        ("released", 8, range(2, 6)),
        ("paper", 1, [0]),
    ):
        assert list(range(n_layers)[cleansight_score.detection_layers(preset, n_layers)]) == list(expected)
