"""Simulated annotators: they rank candidates by the rubric, with noise, now and then upside down, or find none usable."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visionsam_hf.data.masks import mask_iou
from visionsam_hf.preferences.preference_rows import candidate_masks, preference_row
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.preferences.rankings import Annotation, identical_groups, rank_scores, reverse
from visionsam_hf.preferences.rubric import CRITERIA, TIE, USABLE, criteria_table, worths

_PURPOSE = 0x04AC1E


def annotate(
    criteria: np.ndarray,
    ious: Sequence[float],
    groups: Sequence[int],
    *,
    annotator: int,
    task: str,
    seed: int,
    noise: float = 0.0,
    flip_rate: float = 0.0,
) -> Annotation:
    """One simulated annotator's answer; a tie of all masks where none is worth `rubric.USABLE`, as people answer then.

    Args:
        criteria: (K, 4), of `criteria_table`.
        ious: (K,) of the masks with the truth.
        groups: of `rankings.identical_groups`: nearly identical masks are judged as one, as the page does for people.
        annotator: number of the annotator, from 0; with `task` and `seed` it decides the noise, whatever the order of
            the tasks.
        task: a name of the task that no other task of the set has.
        noise: standard deviation added to each criterion of each mask; to its worth goes the mean of the four.
        flip_rate: chance that the whole ranking is reversed.
    """
    rng = np.random.default_rng([seed, _PURPOSE, annotator, zlib.crc32(task.encode())])
    errors = rng.normal(0.0, 1.0, criteria.shape) * noise
    seen = np.clip(criteria + errors, 0.0, 1.0)[list(groups)]
    worth = np.clip(worths(criteria, ious) + errors.mean(1), 0.0, 1.0)[list(groups)]
    ranking = rank_scores(worth, TIE) if worth.max() >= USABLE else [1] * len(worth)
    best, worst = ranking.index(min(ranking)), ranking.index(max(ranking))
    deciding = CRITERIA[int(np.argmax(seen[best] - seen[worst]))] if best != worst else None
    if rng.random() < flip_rate:
        ranking = reverse(ranking)
    return Annotation(f"oracle-{annotator + 1}", "oracle", ranking, deciding, unusable=bool(worth.max() < USABLE))


def oracle_row(
    row: Mapping[str, Any],
    truth: np.ndarray,
    *,
    task: str,
    annotators: int,
    noise: float,
    flip_rate: float,
    seed: int,
    tally: Tally,
) -> dict[str, Any] | None:
    """Let simulated annotators rank one candidate row.

    Args:
        row: of `schema.candidate_features`.
        truth: (H, W) bool, by which they judge.
        task, noise, flip_rate, seed: as in `annotate`.
        annotators: how many.
        tally: is told of their rankings.

    Returns:
        A row of `schema.preference_features`, or None when the rankings tie from top to bottom (no mask is usable, say).
    """
    masks = candidate_masks(row)
    criteria, ious = criteria_table(masks, truth), [mask_iou(mask, truth) for mask in masks]
    groups = identical_groups(np.stack(masks))
    annotations = [
        annotate(criteria, ious, groups, annotator=number, task=task, seed=seed, noise=noise, flip_rate=flip_rate)
        for number in range(annotators)
    ]
    preference, verdict = preference_row(row, annotations, criteria=criteria)
    tally.add(annotations, verdict, row["candidates"], ious)
    return preference
