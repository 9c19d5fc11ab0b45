"""Simulated annotators: they rank candidates by the rubric, with noise, now and then upside down; and their preference rows."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visionsam_hf.data.masks import mask_iou
from visionsam_hf.preferences.preference_rows import candidate_masks, preference_row
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.preferences.rankings import Annotation, identical_groups, rank_scores, reverse
from visionsam_hf.preferences.rubric import CRITERIA, TIE, criteria_table

_PURPOSE = 0x04AC1E


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
        groups: of `rankings.identical_groups`: nearly identical masks are judged as one, as the page does for people.
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
        A row of `schema.preference_features`, or None when the rankings tie from top to bottom.
    """
    masks = candidate_masks(row)
    criteria = criteria_table(masks, truth)
    groups = identical_groups(np.stack(masks))
    annotations = [
        annotate(criteria, groups, annotator=number, task=task, seed=seed, noise=noise, flip_rate=flip_rate)
        for number in range(annotators)
    ]
    preference, verdict = preference_row(row, annotations, criteria=criteria)
    ious = [mask_iou(mask, truth) for mask in masks]
    scores = [candidate["score"] for candidate in row["candidates"]]
    tally.add([annotation.ranking for annotation in annotations], verdict, scores, ious)
    return preference
