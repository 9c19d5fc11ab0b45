import numpy as np
import pytest
from scipy import stats

from visionsam_hf.evaluation.metrics import bootstrap_interval, compare


def clustered_draw(rng, images):
    """IoU-like numbers: 1 to 4 prompts an image, which share half of their spread; their true mean is known."""
    sizes = rng.integers(1, 5, images)
    shared = np.repeat(rng.beta(4, 2, images), sizes)
    own = rng.beta(4, 2, sizes.sum())
    return (shared + own) / 2, np.repeat(np.arange(images), sizes)


def test_interval_covers_the_true_mean_95_times_of_100():
    rng = np.random.default_rng(7)
    trials, images, truth = 1500, 25, 4 / 6  # few images are the hard case
    covered = 0
    for trial in range(trials):
        values, clusters = clustered_draw(rng, images)
        low, high = bootstrap_interval(values, clusters, resamples=400, seed=trial)
        covered += low <= truth <= high
    # 1,500 trials measure the coverage to 0.6%; 4,000 gave 94.6% for 25 images.
    assert 0.93 <= covered / trials <= 0.97


def test_ignoring_the_images_would_be_too_sure():
    values, clusters = clustered_draw(np.random.default_rng(1), 60)
    values = np.repeat(values, 5)  # five identical prompts an image carry no more than one
    clusters = np.repeat(clusters, 5)
    by_image = bootstrap_interval(values, clusters)
    by_prompt = bootstrap_interval(values, np.arange(len(values)))
    assert by_image[1] - by_image[0] > 1.5 * (by_prompt[1] - by_prompt[0])


def test_interval_is_students_for_a_plain_mean():
    values = np.random.default_rng(0).normal(size=300)
    low, high = bootstrap_interval(values, np.arange(300), resamples=20000)
    wanted = stats.t.interval(0.95, 299, values.mean(), values.std(ddof=1) / np.sqrt(300))
    assert (low, high) == pytest.approx(wanted, abs=0.006)


def test_one_image_says_nothing_of_the_spread():
    assert np.isnan(bootstrap_interval([0.1, 0.9], ["a", "a"])).all()


def test_interval_is_the_same_for_the_same_seed():
    values, clusters = clustered_draw(np.random.default_rng(2), 30)
    assert bootstrap_interval(values, clusters, seed=3) == bootstrap_interval(values, clusters, seed=3)
    assert bootstrap_interval(values, clusters, seed=3) != bootstrap_interval(values, clusters, seed=4)


def test_comparison_counts_wins_ties_and_losses():
    got = compare([0.5, 0.6, 0.7, 0.2], [0.4, 0.6, 0.705, 0.5], ["a", "b", "c", "d"])
    assert (got["win"], got["tie"], got["loss"], got["n"]) == (1, 2, 1, 4)
    assert got["difference"] == pytest.approx((0.1 + 0 - 0.005 - 0.3) / 4)
    assert got["interval"][0] < got["difference"] < got["interval"][1]
