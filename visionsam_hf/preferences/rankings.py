"""What a ranking is, and how several people's become one order with one chosen and one rejected candidate.

A ranking is a dense rank per candidate, ties sharing one: `[2, 1, 1]` says that the second and third candidates are
equally good and the first is worse. Rank 1 is best, and position i belongs to candidate i of the task, never to its
place on somebody's screen.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from visionsam_hf.preferences.rubric import RUBRIC_VERSION

# Masks this alike count as one: whoever ranks them apart is guessing.
NEAR_IDENTICAL = 0.98
# Strength of the prior that keeps a candidate that always won (or lost) at a finite worth.
PRIOR = 0.1
_STEPS = 200


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One annotator's answer to one task, as the `annotations` column stores it.

    `kind` is "human" or "oracle"; `deciding_criterion` one of `rubric.CRITERIA`. Not in the column: `unusable` says that
    the tie of all masks means that none is any good; `regions` are the mistakes circled, each {"candidate", "label", "rle"};
    `correction` is the best mask as the annotator mended it, a run-length code.
    """

    annotator: str
    kind: str
    ranking: list[int]
    deciding_criterion: str | None = None
    seconds: float | None = None
    rubric_version: str = RUBRIC_VERSION
    unusable: bool = False
    regions: Sequence[Mapping[str, Any]] = ()
    correction: Mapping[str, Any] | None = None


def dense(ranks: Sequence[float]) -> list[int]:
    """Any numbers where lower is better, as a ranking."""
    return [int(rank) for rank in stats.rankdata(ranks, method="dense")]


def is_ranking(ranks: Sequence[int], count: int) -> bool:
    """Whether these are the dense ranks of `count` candidates."""
    # Counted by the distinct ranks, not up to the highest: that comes from a browser, and may be astronomical.
    return len(ranks) == count and count > 0 and set(ranks) == set(range(1, len(set(ranks)) + 1))


def rank_scores(scores: Sequence[float], tie: float) -> list[int]:
    """The ranking of scores where higher is better.

    From the best down, a score joins the group above it when it is less than `tie` below that group's best one.
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    ranks = [0] * len(scores)
    rank, top = 0, np.inf
    for index in order:
        if rank == 0 or top - scores[index] >= tie:
            rank, top = rank + 1, scores[index]
        ranks[index] = rank
    return ranks


def reverse(ranking: Sequence[int]) -> list[int]:
    """The same ranking with best and worst exchanged."""
    return [max(ranking) + 1 - rank for rank in ranking]


def identical_groups(masks: np.ndarray, threshold: float = NEAR_IDENTICAL) -> list[int]:
    """For each of the (K, H, W) bool masks the first one that it is nearly identical to (IoU >= threshold), or itself."""
    flat = np.asarray(masks, bool).reshape(len(masks), -1)
    groups: list[int] = []
    for index, mask in enumerate(flat):
        twin = index
        for earlier in range(index):
            union = np.count_nonzero(mask | flat[earlier])
            if groups[earlier] == earlier and (
                union == 0 or np.count_nonzero(mask & flat[earlier]) >= threshold * union
            ):
                twin = earlier
                break
        groups.append(twin)
    return groups


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the annotators said together.

    `order` lists the candidates, best first; `mean_ranks` (by candidate) average the fractional ranks, in which tied
    candidates share the mean of the places they occupy; `margin` is the mean ranks' distance between last and first.
    `mended` says that there is a corrected mask above them all.
    """

    order: list[int]
    mean_ranks: list[float]
    margin: float
    votes: int
    mended: bool = False

    @property
    def is_tie(self) -> bool:
        """Whether nothing separates top and bottom, so that there is no pair to learn from."""
        return self.margin < 1e-9 and not self.mended


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
