"""Many rankings to one order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionsam_hf.preferences.rankings import aggregate, dense, mean_ranks, plackett_luce


def test_mean_rank_decides():
    verdict = aggregate([[1, 2, 3], [1, 3, 2], [2, 1, 3]])
    assert verdict.order == [0, 1, 2]
    assert verdict.mean_ranks == pytest.approx([4 / 3, 2, 8 / 3])
    assert verdict.margin == pytest.approx(4 / 3)
    assert verdict.votes == 3
    assert not verdict.is_tie


def test_ties_share_the_places_they_occupy():
    assert mean_ranks([[1, 1, 2]]) == [1.5, 1.5, 3]
    assert aggregate([[1, 1, 2]]).margin == 1.5


@pytest.mark.parametrize("rankings", [[[1, 1, 1]], [[1, 2, 3], [3, 2, 1]], [[1, 2, 3], [2, 3, 1], [3, 1, 2]]])
def test_tied_from_top_to_bottom(rankings):
    assert aggregate(rankings).is_tie


def test_plackett_luce_breaks_an_equal_mean_rank():
    # Candidates 0 and 1 both average rank 2; 0 was twice first and twice last, 1 always second. Winning a choice among
    # three weighs less than never losing one among two.
    rankings = [[1, 2, 3], [1, 2, 3], [3, 2, 1], [3, 2, 1]]
    worths = plackett_luce(rankings)
    assert worths[0] == pytest.approx(worths[2])
    assert worths[1] > worths[0]


def test_plackett_luce_recovers_the_closed_form_for_two():
    # w0/(w0+w1) with prior p: (3+p)/(1+p) odds, since each worth is (wins+p)/(choices/(w0+w1)+p).
    worths = plackett_luce([[1, 2]] * 3 + [[2, 1]], prior=1e-9)
    # The last, lone candidate of each ranking wins a choice of one, which says nothing.
    assert worths[0] / worths[1] == pytest.approx(3.0, rel=1e-6)


def test_plackett_luce_agrees_with_choix():
    choix = pytest.importorskip("choix", reason="the independent implementation is not installed (pip install choix)")
    rng = np.random.default_rng(0)
    orders = [rng.permutation(4) for _ in range(60)]
    rankings = [(np.argsort(order) + 1).tolist() for order in orders]
    theirs = np.exp(choix.opt_rankings(4, [order.tolist() for order in orders], alpha=1e-9, method="BFGS"))
    ours = np.array(plackett_luce(rankings, prior=1e-9))
    assert ours / ours.sum() == pytest.approx(theirs / theirs.sum(), rel=1e-3)


def test_a_candidate_that_always_wins_has_finite_worth():
    assert np.isfinite(plackett_luce([[1, 2, 3]] * 9)).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations([1, 2, 3]), min_size=1, max_size=6), st.permutations([0, 1, 2]))
def test_renaming_candidates_renames_the_verdict(rankings, names):
    verdict = aggregate(rankings)
    renamed = aggregate([[ranking[name] for name in names] for ranking in rankings])
    assert renamed.margin == pytest.approx(verdict.margin)
    assert renamed.mean_ranks == pytest.approx([verdict.mean_ranks[name] for name in names])


def test_ties_in_plackett_luce_pull_together():
    apart = plackett_luce([[1, 2, 3]])
    together = plackett_luce([[1, 1, 2]])
    assert apart[0] > apart[1]
    assert together[0] == pytest.approx(together[1])
    assert dense([-worth for worth in plackett_luce([[1, 1, 1]])]) == [1, 1, 1]


def test_nothing_to_aggregate():
    with pytest.raises(ValueError, match="no ranking"):
        aggregate([])
