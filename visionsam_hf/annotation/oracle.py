"""Simulated annotators: they rank candidates by the criteria of the rubric, with noise, and now and then upside down."""

import zlib
from collections.abc import Sequence

import numpy as np

from visionsam_hf.annotation.ranking import Annotation, rank_scores, reverse
from visionsam_hf.annotation.rubric import CRITERIA, TIE, rate_mask

_PURPOSE = 0x04AC1E


def criteria_table(masks: Sequence[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """The (K, 4) criteria of K candidate masks, columns in the order of `CRITERIA`."""
    return np.array([rate_mask(mask, truth).values() for mask in masks])


def annotate(
    criteria: np.ndarray,
    groups: Sequence[int],
    *,
    annotator: int,
    task: str,
    seed: int,
    noise: float = 0.0,
    flip_rate: float = 0.0,
) -> Annotation:
    """One simulated annotator's answer.

    Args:
        criteria: (K, 4), of `criteria_table`.
        groups: of `ranking.identical_groups`: nearly identical masks are judged as one, as the page does for people.
        annotator: number of the annotator, from 0; with `task` and `seed` it decides the noise, whatever the order of
            the tasks.
        task: a name of the task that no other task of the set has.
        noise: standard deviation added to each criterion of each mask, clipped to [0, 1].
        flip_rate: chance that the whole ranking is reversed.
    """
    rng = np.random.default_rng([seed, _PURPOSE, annotator, zlib.crc32(task.encode())])
    seen = np.clip(criteria + rng.normal(0.0, 1.0, criteria.shape) * noise, 0.0, 1.0)[list(groups)]
    ranking = rank_scores(seen.mean(1), TIE)
    best, worst = ranking.index(min(ranking)), ranking.index(max(ranking))
    deciding = CRITERIA[int(np.argmax(seen[best] - seen[worst]))] if best != worst else None
    if rng.random() < flip_rate:
        ranking = reverse(ranking)
    return Annotation(f"oracle-{annotator + 1}", "oracle", ranking, deciding)
