"""TCAP on shares whose answer is known: which heads separate, who is flagged, and how votes are weighed."""

from pathlib import Path

import numpy as np
import pytest

from bye.detect.tcap import TCAPDetector, dawid_skene, divide, majority
from bye.plan import entries, problems
from bye.tools.configuration import read_configuration

N, LAYERS, HEADS = 300, 4, 3


def shares(n_poisoned=30, moved=((2, 1), (3, 0)), seed=0, by=0.4):
    """Shares (N, LAYERS, HEADS) of one bump a head, but for heads in which the first samples are moved."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.5, 0.03, size=(N, LAYERS, HEADS))
    for layer, head in moved:
        values[:n_poisoned, layer, head] -= by
    return values


def test_samples_that_some_heads_treat_otherwise_are_flagged():
    detector = TCAPDetector(random_state=0)
    labels = detector.fit_predict(shares())
    assert (labels[:30] == -1).all() and (labels[30:] == 1).all()
    assert set(detector.voters_[:2]) == {(2, 1), (3, 0)}
    assert min(detector.separation_[2, 1], detector.separation_[3, 0]) > 900  # of 1 / 0.001 where nothing overlaps
    assert (detector.separation_[:2] == 0).all()  # the lower half is not looked at
    assert np.array_equal(detector.score_samples(), -detector.probabilities_)


def test_it_is_the_minority_whichever_way_it_goes_and_however_many_bumps_the_others_have():
    for by in (0.3, -0.3):
        values = shares(by=by)
        values[150:, 2, 1] += 0.1  # two kinds of clean samples
        labels = TCAPDetector(random_state=0).fit_predict(values)
        assert (labels[:30] == -1).all() and (labels[30:] == 1).all()


def test_without_a_head_that_divides_nobody_is_flagged():
    detector = TCAPDetector(random_state=0).fit(np.full((20, 2, 2), 0.3))
    assert detector.voters_ == [] and (detector.labels_ == 1).all() and detector.votes_.shape == (20, 0)
    one_bump = np.random.default_rng(0).normal(0.5, 0.03, 400)
    assert divide(one_bump, components=1) is None and divide(np.full(9, 0.5)) is None


def test_layers_and_heads():
    values = shares(moved=((0, 0), (3, 2)))
    assert TCAPDetector(layers=1, random_state=0).fit(values).separation_[:3].max() == 0
    everywhere = TCAPDetector(layers=0, heads=2, random_state=0).fit(values)
    assert set(everywhere.voters_) == {(0, 0), (3, 2)}
    assert everywhere.votes_.shape == (N, 2) and everywhere.votes_[:30].all() and not everywhere.votes_[30:].any()


def test_divide_by_hand():
    """Two bumps of one and nine tenths, four deviations apart from the middle: they hardly overlap."""
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0.2, 0.02, 50), rng.normal(0.8, 0.05, 450)])
    mass, overlap = divide(values, random_state=0)
    assert (mass[:50] > 0.99).all() and (mass[50:] < 0.01).all() and overlap < 1e-3
    mass, overlap = divide(1 - values, random_state=0)
    assert (mass[:50] > 0.99).all()


def test_dawid_and_skene_trust_the_voters_that_agree():
    """Three good voters, and four that vote by chance: a majority of all seven is often wrong, the EM is not."""
    rng = np.random.default_rng(2)
    truth = np.arange(400) < 80
    good = truth[:, None] ^ (rng.random((400, 3)) < 0.03)
    chance = rng.random((400, 4)) < 0.3
    votes = np.concatenate([good, chance], axis=1)
    assert np.mean((dawid_skene(votes) > 0.5) == truth) > 0.98
    assert np.mean((majority(votes) > 0.5) == truth) < np.mean((dawid_skene(votes) > 0.5) == truth)
    assert (dawid_skene(np.zeros((5, 0), dtype=bool)) == 0).all() and (majority(np.zeros((5, 0))) == 0).all()
    assert (dawid_skene(np.zeros((5, 3), dtype=bool)) < 0.5).all()


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.zeros((1, 2, 2)), np.full((3, 2, 2), np.nan)])
def test_bad_input(values):
    with pytest.raises(ValueError, match="X must be finite, of shape"):
        TCAPDetector().fit(values)
    with pytest.raises(ValueError, match="combine is 'sum'; it can be dawid_skene, majority"):
        TCAPDetector(combine="sum").fit(np.zeros((3, 2, 2)))


def test_ablations_and_sweep_are_detections_on_the_features_of_the_plain_fine_tune():
    """Nothing is trained for config/tcap.yaml, and its rows differ in the settings that its columns show."""
    root = Path(__file__).parents[1]
    _, config = read_configuration([root / "config/tcap.yaml"])
    problems.check(config)
    for name in ("tcap_ablations", "tcap_sweep", "tcap_untouched"):
        assert {file for _, file in entries.cell_files(config, name)} <= {"detection.json", "flags.parquet"}
        columns = {column["setting"] for column in entries.columns(config["tables"][name]) if "setting" in column}
        rows = [config["defences"][key] for key in config["tables"][name]["defences"]]
        assert all(row["kind"] == "tcap" for row in rows)
        assert len({tuple(row[column] for column in columns) for row in rows}) == len(rows)
    swept = [config["defences"][key] for key in config["tables"]["tcap_sweep"]["defences"]]
    for setting in ("heads", "layers", "votes", "epsilon"):
        assert len({row[setting] for row in swept}) >= 3
