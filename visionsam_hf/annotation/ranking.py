"""What a ranking is: dense ranks per candidate, ties sharing one.

`[2, 1, 1]` says that the second and third candidates are equally good and the first is worse. Rank 1 is best, ranks have
no gaps, and position i belongs to candidate i of the task, never to its place on somebody's screen.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from visionsam_hf.annotation.rubric import RUBRIC_VERSION

# Masks this alike count as one: whoever ranks them apart is guessing.
NEAR_IDENTICAL = 0.98


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One annotator's answer to one task, as the `annotations` column stores it.

    `kind` is "human" or "oracle"; `deciding_criterion` one of `rubric.CRITERIA`.
    """

    annotator: str
    kind: str
    ranking: list[int]
    deciding_criterion: str | None = None
    seconds: float | None = None
    rubric_version: str = RUBRIC_VERSION


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
