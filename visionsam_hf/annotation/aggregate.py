"""From several people's rankings of one task to one order, one chosen and one rejected candidate."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

# Strength of the prior that keeps a candidate that always won (or lost) at a finite worth.
PRIOR = 0.1
_STEPS = 200


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the annotators said together.

    `order` lists the candidates, best first; `mean_ranks` (by candidate) average the fractional ranks, in which tied
    candidates share the mean of the places they occupy; `margin` is the mean ranks' distance between last and first.
    """

    order: list[int]
    mean_ranks: list[float]
    margin: float
    votes: int

    @property
    def is_tie(self) -> bool:
        """Whether nothing separates top and bottom, so that there is no pair to learn from."""
        return self.margin < 1e-9


def aggregate(rankings: Sequence[Sequence[int]]) -> Verdict:
    """Order the candidates of one task by mean rank, equal ones by regularised Plackett-Luce, then by their number.

    Args:
        rankings: at least one ranking, all of the same K candidates.
    """
    if not rankings:
        raise ValueError("no ranking to aggregate")
    means = mean_ranks(rankings)
    # Rounded, so that sums in another order do not break a tie that is one.
    rounded = [round(mean, 9) for mean in means]
    worths = plackett_luce(rankings) if len(set(rounded)) < len(rounded) else means
    keys = [(rounded[index], -round(worths[index], 9), index) for index in range(len(means))]
    order = sorted(range(len(means)), key=keys.__getitem__)
    return Verdict(order, means, means[order[-1]] - means[order[0]], len(rankings))


def mean_ranks(rankings: Sequence[Sequence[int]]) -> list[float]:
    """Mean fractional rank of each candidate: a ranking [1, 1, 2] counts as 1.5, 1.5, 3."""
    return stats.rankdata(np.asarray(rankings), method="average", axis=1).mean(0).tolist()


def plackett_luce(rankings: Sequence[Sequence[int]], prior: float = PRIOR) -> list[float]:
    """Each candidate's worth, scaled to mean 1: the mode under a Gamma(1 + prior, prior) prior, by Hunter's
    minorise-maximise steps (Annals of Statistics 32, 2004). Tied candidates are each chosen from all that remain, as
    Breslow does in survival analysis.
    """
    count = len(rankings[0])
    wins = np.zeros(count)
    choices: list[tuple[int, np.ndarray]] = []
    for ranking in np.asarray(rankings):
        for rank in range(1, ranking.max() + 1):
            picked = ranking == rank
            wins += picked
            choices.append((int(picked.sum()), ranking >= rank))
    worths = np.ones(count)
    for _ in range(_STEPS):
        denominators = np.zeros(count)
        for picked, remaining in choices:
            denominators += remaining * (picked / worths[remaining].sum())
        before, worths = worths, (wins + prior) / (denominators + prior)
        if np.allclose(before, worths, rtol=1e-12, atol=0):
            break
    return (worths / worths.mean()).tolist()
