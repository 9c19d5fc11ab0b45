"""Rankings: dense ranks per candidate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionsam_hf.preferences.rankings import dense, identical_groups, is_ranking, rank_scores, reverse


@pytest.mark.parametrize(
    ("scores", "ranking"),
    [
        ([0.2, 0.9, 0.5], [3, 1, 2]),
        ([0.90, 0.89, 0.5], [1, 1, 2]),
        ([0.90, 0.885, 0.87], [1, 1, 2]),  # a tie reaches no farther than 0.02 below its best
        ([0.5, 0.5, 0.5], [1, 1, 1]),
        ([0.52, 0.5, 0.1], [1, 2, 3]),
    ],
)
def test_scores_to_ranks(scores, ranking):
    assert rank_scores(scores, 0.02 - 1e-12) == ranking


def test_what_is_a_ranking():
    assert is_ranking([1, 1, 2], 3)
    assert not is_ranking([1, 3, 3], 3)
    assert not is_ranking([0, 1, 2], 3)
    assert not is_ranking([1, 2], 3)
    assert dense([1.5, 3.0, 1.5]) == [1, 2, 1]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_reversing_twice_is_nothing(scores):
    ranking = rank_scores(scores, 0.02)
    assert is_ranking(ranking, len(scores))
    assert is_ranking(reverse(ranking), len(scores))
    assert reverse(reverse(ranking)) == ranking


def test_near_identical_masks_are_one():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    almost, other = mask.copy(), mask.copy()
    almost[2, 2] = False
    other[2:4] = False
    assert identical_groups(np.stack([mask, almost, other])) == [0, 0, 2]
    assert identical_groups(np.stack([other, almost, mask])) == [0, 1, 1]
    assert identical_groups(np.zeros((2, 4, 4), bool)) == [0, 0]


def test_an_astronomical_rank_is_refused_at_once():
    assert not is_ranking([1, 2, 10**18], 3) and not is_ranking([0, 1, 2], 3) and is_ranking([2, 1, 1], 3)
