"""Agreement statistics against independent computations and known cases."""

import numpy as np
import pytest

from visionsam_hf.preferences import ranking_statistics as agreement


def random_tasks(count, raters, seed=0, share=0.0):
    """Rankings drawn at random; with `share` each rater gives the truth 1, 2, 3 that often."""
    rng = np.random.default_rng(seed)
    return [
        {
            f"r{rater}": [1, 2, 3] if rng.random() < share else [int(rank) for rank in rng.permutation(3) + 1]
            for rater in range(raters)
        }
        for _ in range(count)
    ]


def with_ties(tasks):
    return [{name: [1, 1, 2] if number % 5 == 0 else ranks for name, ranks in task.items() if name != f"r{number % 4}"}
            for number, task in enumerate(tasks)]


def test_alpha_equals_the_krippendorff_package():
    krippendorff = pytest.importorskip(
        "krippendorff", reason="the independent implementation: pip install krippendorff"
    )
    for tasks in (random_tasks(40, 4, share=0.5), with_ties(random_tasks(40, 4, share=0.3)), random_tasks(9, 2)):
        names = sorted({name for task in tasks for name in task})
        table = [
            [rank for task in tasks for rank in task.get(name, [np.nan] * 3)] for name in names
        ]
        theirs = krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal", value_domain=[1, 2, 3])
        assert agreement.ordinal_alpha(tasks) == pytest.approx(theirs)


def test_kappa_equals_statsmodels():
    inter_rater = pytest.importorskip(
        "statsmodels.stats.inter_rater", reason="the independent implementation: pip install statsmodels"
    )
    tasks = random_tasks(50, 3, seed=2, share=0.4)
    table = np.array([np.bincount([ranks.index(1) for ranks in task.values()], minlength=3) for task in tasks])
    assert agreement.best_choice_kappa(tasks) == pytest.approx(inter_rater.fleiss_kappa(table))


def test_tau_counts_concordant_pairs():
    def by_hand(first, second):
        signs = [np.sign(first[i] - first[j]) * np.sign(second[i] - second[j]) for i in range(3) for j in range(i)]
        sizes = [sum(ranks[i] != ranks[j] for i in range(3) for j in range(i)) for ranks in (first, second)]
        return sum(signs) / np.sqrt(sizes[0] * sizes[1])

    pairs = [([1, 2, 3], [1, 3, 2]), ([1, 1, 2], [1, 2, 3]), ([3, 1, 2], [2, 1, 2])]
    tasks = [{"a": first, "b": second} for first, second in pairs]
    assert agreement.pairwise_tau(tasks) == pytest.approx(np.mean([by_hand(*pair) for pair in pairs]))
    assert np.isnan(agreement.pairwise_tau([{"a": [1, 1, 1], "b": [1, 2, 3]}]))


def test_people_who_agree_and_people_who_guess():
    alike = random_tasks(30, 3, share=1.0)
    assert agreement.ordinal_alpha(alike) == 1.0
    assert agreement.exact_agreement(alike) == 1.0
    guessing = random_tasks(600, 3)
    assert agreement.ordinal_alpha(guessing) == pytest.approx(0, abs=0.05)
    low, high = agreement.alpha_interval(guessing, seed=0, draws=200)
    assert low < 0 < high
    assert agreement.best_choice_kappa(guessing) == pytest.approx(0, abs=0.05)
    assert agreement.exact_agreement(guessing) == pytest.approx(1 / 6, abs=0.03)


def test_each_annotator_against_the_others():
    tasks = [{"a": [1, 2, 3], "b": [1, 2, 3], "c": [3, 2, 1]}] * 4
    found = agreement.leave_one_out_tau(tasks)
    assert found["c"] == -1.0
    assert np.isnan(found["a"]), "b and c cancel out"


def test_unanimity():
    tasks = [{"a": [1, 2, 3], "b": [1, 3, 2]}, {"a": [1, 2, 3], "b": [3, 2, 1]}, {"a": [1, 2, 3]}]
    assert agreement.unanimity(tasks, [(0, 2), (0, 2), (0, 2)]) == 0.5
    assert np.isnan(agreement.unanimity(tasks, [None, None, None]))


def test_position_bias():
    counts, p = agreement.position_bias([0] * 40 + [1] * 10 + [2] * 10)
    assert counts == [40, 10, 10] and p < 1e-4
    assert agreement.position_bias([0, 1, 2] * 20)[1] == pytest.approx(1)


def test_nothing_gives_nan():
    assert np.isnan(agreement.ordinal_alpha([]))
    assert np.isnan(agreement.ordinal_alpha([{"a": [1, 2, 3]}]))
    assert np.isnan(agreement.best_choice_kappa([{"a": [1, 2, 3]}]))
