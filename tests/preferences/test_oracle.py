"""Simulated annotators: seeded, noisy, sometimes upside down."""

import numpy as np
import pytest

from visionsam_hf.preferences.oracle import annotate
from visionsam_hf.preferences.rankings import reverse
from visionsam_hf.preferences.rubric import criteria_table

CRITERIA = np.array([[0.9, 0.8, 0.9, 1.0], [0.5, 0.5, 0.4, 0.9], [0.1, 0.2, 0.3, 0.4]])


def ask(task="train/0", **options):
    return annotate(CRITERIA, [0, 1, 2], **{"annotator": 0, "task": task, "seed": 1} | options)


def test_without_noise_it_ranks_by_the_composite():
    answer = ask()
    assert answer.ranking == [1, 2, 3]
    assert (answer.annotator, answer.kind, answer.deciding_criterion) == ("oracle-1", "oracle", "coverage")


def test_a_flip_is_the_ranking_reversed():
    assert ask(flip_rate=1.0).ranking == reverse(ask().ranking)
    flipped = np.mean([ask(task=f"train/{number}", flip_rate=0.3).ranking == [3, 2, 1] for number in range(1000)])
    assert flipped == pytest.approx(0.3, abs=0.05)


def test_noise_is_seeded_and_differs_between_annotators_and_tasks():
    def rankings(**options):
        return [ask(task=f"train/{number}", noise=0.5, **options).ranking for number in range(30)]

    assert rankings() == rankings()
    assert rankings() != rankings(annotator=1)
    assert rankings() != rankings(seed=2)
    assert len({tuple(ranking) for ranking in rankings()}) > 1


def test_near_identical_masks_are_never_told_apart():
    for number in range(50):
        ranking = annotate(CRITERIA, [0, 0, 2], annotator=0, task=str(number), seed=0, noise=1.0).ranking
        assert ranking[0] == ranking[1]


def test_criteria_of_masks():
    truth = np.zeros((16, 16), bool)
    truth[4:8, 4:8] = True
    table = criteria_table([truth, np.zeros_like(truth)], truth)
    assert table.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
