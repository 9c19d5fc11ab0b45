import numpy as np
import pytest

from visionsam_hf.evaluation.metrics import auroc, calibration, top1_agreement
from visionsam_hf.evaluation.per_sample import CaseThresholds, classify


def test_a_worked_example():
    got = calibration(np.array([0.15, 0.95, 0.95, 0.85]), np.array([0.05, 0.95, 0.75, 0.85]))
    assert got["mae"] == pytest.approx((0.1 + 0 + 0.2 + 0) / 4)
    assert got["bias"] == pytest.approx(0.3 / 4)
    # Bins: .1 to .2 (gap .1, one), .8 to .9 (gap 0, one), .9 to 1 (gap .1, two).
    assert got["ece"] == pytest.approx((0.1 + 0 + 2 * 0.1) / 4)
    assert [entry["n"] for entry in got["bins"]] == [1, 1, 2]
    assert got["auroc"] == 1


def test_perfect_scores():
    ious = np.linspace(0, 1, 11)
    got = calibration(ious, ious)
    assert (got["mae"], got["bias"], got["ece"], got["auroc"]) == (0, 0, 0, 1)
    assert got["spearman"] == pytest.approx(1)


def test_what_is_not_defined_is_none():
    constant = calibration(np.full(4, 0.5), np.array([0.6, 0.7, 0.8, 0.9]))
    assert constant["spearman"] is None and constant["auroc"] is None and constant["mae"] == pytest.approx(0.25)
    assert calibration(np.full(3, np.nan), np.ones(3))["mae"] is None


def test_scores_outside_the_unit_interval_fall_into_the_outermost_bins():
    got = calibration(np.array([-0.2, 1.3]), np.array([0.0, 1.0]))
    assert [(entry["low"], entry["n"]) for entry in got["bins"]] == [(0.0, 1), (0.9, 1)]


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.4
    wins = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(wins))


def test_top1_agreement():
    ious = np.array([[0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [0.5, 0.5, 0.1]])
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.8, 0.1]])
    assert top1_agreement(scores, ious) == pytest.approx(2 / 3)  # the third: equally good masks


def test_the_four_cases():
    ious = np.array([[0.8, 0.2, 0.1], [0.8, 0.2, 0.1], [0.7, 0.66, 0], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1]])
    coverage = np.array([[0.9] * 3, [0.9] * 3, [0.9] * 3, [0.8, 0, 0], [0.7, 1, 1]])
    precision = np.array([[0.9] * 3, [0.9] * 3, [0.9] * 3, [0.49, 1, 1], [0.3, 0.3, 0.3]])
    scores = np.array([[0.9, 0, 0], [0, 0.9, 0], [0, 0.9, 0], [0, 0, 1], [0, 0, 1]])
    wanted = ["aligned", "misaligned", "aligned", "partial", "failure"]
    assert classify(ious, coverage, precision, scores).tolist() == wanted
    strict = CaseThresholds(aligned_gap=0.01)
    assert classify(ious, coverage, precision, scores, strict).tolist()[2] == "misaligned"
